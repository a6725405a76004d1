# ruff: noqa: N999
# Build facts of the compiled library; importing it registers the operators of `fastforget.ops`.

compiler: str
emulation: bool  # whether the operators run the CUDA kernels, on the host
torch_abi: str

def simd_level() -> str: ...
