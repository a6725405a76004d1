"""Forget one of 214 file types: magika's network, from a few files of this machine.

    pip install --no-deps magika==1.0.3
    pip install onnx onnxruntime
    python examples/file_types.py --cls html

Google trained magika to name the type of a file by its first and last 1,024 bytes. The package holds the network as an
ONNX file. Here a module of the same architecture takes its weights, and ONNX Runtime checks that both say the same.

There is no data set and no code in the package. So the files come from this machine, and the ending of a file says of
what type it is. One part of the files serves the edit. With others, what is left of the type is measured. Types with
too few files for that are measured as well: the edit sees no file of them.
"""

import argparse
import copy
import json
import os
import random
import sysconfig
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from audit_table import print_row, print_table
from torch import Tensor, nn

import fastforget

ENDINGS = {
    "awk": "awk", "bmp": "bmp", "bz2": "bzip", "c": "c", "cmake": "cmake", "cpp": "cpp", "css": "css", "csv": "csv",
    "diff": "diff", "el": "lisp", "exe": "pebin", "f90": "fortran", "gif": "gif", "go": "go", "gz": "gzip",
    "html": "html", "ico": "ico", "ini": "ini", "ipynb": "ipynb", "jar": "jar", "java": "java", "jpg": "jpeg",
    "js": "javascript", "json": "json", "lua": "lua", "m4": "m4", "md": "markdown", "npy": "npy", "npz": "npz",
    "pdf": "pdf", "pem": "pem", "pickle": "pickle", "pl": "perl", "pm": "perl", "png": "png", "proto": "proto",
    "ps": "postscript", "py": "python", "pyc": "pythonbytecode", "pyi": "python", "rb": "ruby", "rs": "rust",
    "rst": "rst", "sh": "shell", "so": "elf", "sql": "sql", "svg": "svg", "tcl": "tcl", "tex": "latex",
    "toml": "toml", "ts": "typescript", "ttf": "ttf", "txt": "txt", "wav": "wav", "xml": "xml", "xz": "xz",
    "yaml": "yaml", "yml": "yaml", "zip": "zip",
}  # fmt: skip
NOVEL = ("enc", "mo", "pc", "vim")  # endings of types that it was not taught
END, BLOCK, PADDING = 1024, 4096, 256  # bytes of each end of a file that are seen, and read; the token beyond them
BATCH = 32

Labelled = tuple[Tensor, Tensor]


class FileTypes(nn.Module):
    """Magika's network, version 3.3: tokens 0 to 256 of both ends of a file, int64 [N, 2048], to logits [N, 214].

    Four tokens in a row make one of 512 positions. The first norm goes over the positions, not over the channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(PADDING + 1, 64)
        self.positions = nn.LayerNorm(512, eps=1e-6)
        self.conv = nn.Conv1d(256, 512, 5)
        self.norm = nn.LayerNorm(512, eps=1e-6)
        self.output = nn.Linear(512, 214)

    def forward(self, tokens: Tensor) -> Tensor:
        h = F.gelu(self.embedding(tokens), approximate="tanh").view(len(tokens), 512, 256)
        h = F.gelu(self.conv(self.positions(h.transpose(1, 2))), approximate="tanh").amax(2)
        logits: Tensor = self.output(self.norm(h))
        return logits


def model_folder() -> Path:
    """Return the folder of the network in magika's package, without importing it."""
    spec = find_spec("magika")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("magika is not installed; see the beginning of this file")
    return Path(spec.submodule_search_locations[0]) / "models" / "standard_v3_3"


def load_model(file: Path) -> FileTypes:
    """Make the module with the weights in the ONNX file."""
    import onnx  # noqa: PLC0415 (the beginning of this file says how to get it)

    initializers = onnx.load(file).graph.initializer
    # Their names end with these; what comes before is where jax2tf put them.
    values = {tensor.name.rpartition("pjit_get_logits_/")[2]: tensor for tensor in initializers}
    found = {name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()) for name, tensor in values.items()}
    model = FileTypes()
    state = {
        # The bias of the embedding is a part of each of its rows.
        "embedding.weight": found["jax2tf_get_logits_/Const:0"] + found["MagikaV2/Dense_0/Reshape:0"],
        "positions.weight": found["MagikaV2/LayerNorm_0/Reshape_2:0"],
        "positions.bias": found["MagikaV2/LayerNorm_0/Reshape_3:0"],
        "conv.weight": found["MagikaV2/Conv_0/transpose_3:0"],
        "conv.bias": found["const_fold_opt__209"],
        "norm.weight": found["MagikaV2/LayerNorm_1/Reshape_2:0"],
        "norm.bias": found["MagikaV2/LayerNorm_1/Reshape_3:0"],
        "output.weight": found["jax2tf_get_logits_/Const_24:0"].T,
        "output.bias": found["MagikaV2/Dense_1/Reshape:0"],
    }
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    model.load_state_dict({name: value.reshape(shapes[name]) for name, value in state.items()})
    return model.eval()


def tokens_of(file: Path) -> Tensor:
    """Return both ends of a file without blanks around it, int64 [2048]."""
    with file.open("rb") as stream:
        head = stream.read(BLOCK).lstrip()[:END]
        stream.seek(max(file.stat().st_size - BLOCK, 0))
        tail = stream.read(BLOCK).rstrip()[-END:]
    gaps = [[PADDING] * (END - len(part)) for part in (head, tail)]
    return torch.tensor([*head, *gaps[0], *gaps[1], *tail])


def files_by_type(roots: Sequence[Path], endings: Mapping[str, str] = ENDINGS) -> dict[str, list[Path]]:
    """Return the files below some folders by the type that their ending says, in random order."""
    found = defaultdict(list)
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                kind = endings.get(name.rpartition(".")[2]) if "." in name else None
                if kind is not None:
                    found[kind].append(Path(folder) / name)
    for files in found.values():
        random.Random(0).shuffle(files)  # noqa: S311 (not for secrets)
    return dict(found)


def different(files: Sequence[Path], most: int) -> Tensor:
    """Return the first files that look different to the network, int64 [N, 2048]."""
    seen: dict[bytes, Tensor] = {}
    for file in files:
        if len(seen) == most:
            break
        if file.is_file() and not file.is_symlink() and file.stat().st_size >= 100:
            tokens = tokens_of(file)
            seen.setdefault(tokens.numpy().tobytes(), tokens)
    return torch.stack(list(seen.values())) if seen else torch.empty(0, 2 * END, dtype=torch.int64)


@torch.no_grad()
def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    return torch.cat([model(some) for some in tokens.split(BATCH)])


def check_conversion(model: nn.Module, file: Path, tokens: Tensor) -> Tensor:
    """Return how far the module's probabilities are from those of ONNX Runtime, the largest difference of each file.

    The ONNX file computes a variance as a difference of squares, in float32. Few digits are left of that where most of
    the positions are the same, as in short files. The module's own variance does not have this fault.
    """
    import onnxruntime  # noqa: PLC0415 (as above)

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    expected = torch.from_numpy(session.run(None, {"bytes": tokens.int().numpy()})[0])
    differences = (logits(model, tokens).softmax(1) - expected).abs().amax(1)
    if float(differences.max()) > 0.01:
        raise SystemExit(f"module and ONNX Runtime differ by {differences.max():.1e}: is this version 1.0.3 of magika?")
    return differences


def join(parts: dict[int, Tensor]) -> Labelled:
    """Return the files of some types, with their types."""
    targets = torch.tensor([cls for cls, tokens in parts.items() for _ in tokens])
    return torch.cat(list(parts.values())), targets


def without(labelled: Labelled, cls: int) -> Labelled:
    tokens, targets = labelled
    return tokens[targets != cls], targets[targets != cls]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cls", default="html", help="the type to forget")
    parser.add_argument("--level", default="features", choices=["output", "features"], help="how deep to forget it")
    parser.add_argument("--types", type=int, default=12, help="how many types the edit sees files of")
    parser.add_argument("--files", type=int, default=16, help="of each type, that the edit sees")
    parser.add_argument("--measured", type=int, default=50, help="to learn from, and as many to test with")
    parser.add_argument("--relearning-steps", type=int, default=20, help="of the audit; 0 for no learning again")
    parser.add_argument(
        "--roots", type=Path, nargs="+", default=[Path(sysconfig.get_path("purelib")), Path("/usr")],
        help="folders with files",
    )  # fmt: skip
    return parser.parse_args()


def main() -> None:
    given = parse()
    folder = model_folder()
    names = json.loads((folder / "config.min.json").read_text())["target_labels_space"]
    if given.cls not in ENDINGS.values():
        raise SystemExit(f"--cls must be a type whose files can be told by their endings, got {given.cls}")
    model = load_model(folder / "model.onnx")

    wanted = given.files + 2 * given.measured
    found = {kind: different(files, wanted) for kind, files in files_by_type(given.roots).items()}
    enough = sorted((kind for kind in found if len(found[kind]) == wanted), key=lambda kind: (kind != given.cls, kind))
    if given.cls not in enough or len(enough) < 3:
        raise SystemExit(f"there must be {wanted} files of {given.cls} and of two other types, got {enough}")
    chosen = {names.index(kind): found[kind] for kind in enough[: given.types]}
    few = {names.index(kind): tokens for kind, tokens in found.items() if names.index(kind) not in chosen}
    parts = [given.files, given.measured, given.measured]
    edit, known, test = (join({cls: t.split(parts)[part] for cls, t in chosen.items()}) for part in range(3))
    strangers = files_by_type(given.roots, {ending: ending for ending in NOVEL})
    novel = {number: different(files, 2 * given.measured) for number, files in enumerate(strangers.values())}
    novel = {number: tokens for number, tokens in novel.items() if len(tokens) == 2 * given.measured}
    print(f"types that the network never saw: {[list(strangers)[number] for number in novel]}")
    differences = check_conversion(model, folder / "model.onnx", test[0])
    print(f"{len(differences)} files: the probabilities are those of ONNX Runtime")
    print(f"to {differences.median():.0e} for half of the files, to {differences.max():.0e} for all\n")

    cls, original = names.index(given.cls), copy.deepcopy(model)
    samples = edit if given.level == "features" else (without(edit, cls)[0], None)
    receipt = fastforget.one_shot(model, None, cls, samples=samples, batch_size=BATCH)
    print(f"{receipt}\n{receipt.seconds['total']:.0f} s\n")

    inside = known[1] == cls
    forget = (known[0][inside], known[1][inside])
    report = fastforget.audit(
        model,
        forget,
        without(known, cls),
        test,
        original=original,
        novel=join(novel) if novel else None,
        relearning_steps=given.relearning_steps,
    )
    print_table(report, cls)
    unseen, of = join(few)
    right = [float((logits(one, unseen).argmax(1) == of).double().mean()) for one in (original, model)]
    print_row(f"{len(few)} classes without", *right)
    shares = sorted(zip(report.mass["model"], names, strict=True), reverse=True)[:3]
    print(f"\n{given.cls} is taken for {', '.join(f'{name} {100 * share:.0f} %' for share, name in shares)}")
    receipt.revert(model)
    same = fastforget.fingerprint(model) == receipt.before
    print(f"after the undo: {'every bit is back' if same else 'THE MODEL DIFFERS'}")


if __name__ == "__main__":
    main()
