"""The operators of ``torch.ops.fastforget``: what they compute, and on which shapes.

Shape alphabet: N samples, G groups of per-sample weights, T positions (time or space), O / I features
out / in, P parameters, L tensors of a list, K tasks. Operators check shapes and types in C++ and raise
``RuntimeError``; the public functions of the package check earlier, in the caller's words. All tensors of a call are on
one device, the CPU or, if `cuda_built`, a CUDA device. There the call runs on the current stream, and the host does not
wait for it. `fastforget.ops.reference` defines every operator in plain PyTorch.
"""

from fastforget.ops.fingerprints import fingerprint
from fastforget.ops.fisher import fisher_affine, fisher_convolution, fisher_embedding, fisher_linear
from fastforget.ops.library import cuda_built, simd_level
from fastforget.ops.perturbation import perturb, perturb_undo, perturb_write
from fastforget.ops.projection import project, project_combine, project_gram, project_weights
from fastforget.ops.selection import select, select_histogram, select_indices, select_mask

__all__ = [
    "cuda_built",
    "fingerprint",
    "fisher_affine",
    "fisher_convolution",
    "fisher_embedding",
    "fisher_linear",
    "perturb",
    "perturb_undo",
    "perturb_write",
    "project",
    "project_combine",
    "project_gram",
    "project_weights",
    "select",
    "select_histogram",
    "select_indices",
    "select_mask",
    "simd_level",
]
