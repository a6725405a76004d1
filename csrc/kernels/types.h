// Element types shared by all kernels.
#pragma once

namespace fastforget {

enum class DType { f32, f64, bf16, f16 };

}  // namespace fastforget
