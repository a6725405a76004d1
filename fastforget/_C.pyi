# ruff: noqa: N999
# Build facts of the compiled library; importing it registers the operators of `fastforget.ops`.

compiler: str
torch_abi: str

def simd_level() -> str: ...
