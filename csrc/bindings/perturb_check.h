// What the operators that change parameters ask of their arguments, on any device.
#pragma once

#include "check.h"

namespace fastforget {

// Checks that there is one contiguous tensor of this type for each parameter.
inline void check_per_parameter(const Tensors& tensors, const char* name, const Tensors& parameters,
                                ScalarType type) {
  STD_TORCH_CHECK(tensors.size() == parameters.size(), "`", name,
                  "` must have one tensor per tensor of `parameters`, got ", tensors.size(),
                  " and ", parameters.size());
  for (size_t l = 0; l < tensors.size(); ++l) {
    check_type(tensors[l], name, type);
    check_contiguous(tensors[l], name);
    STD_TORCH_CHECK(tensors[l].numel() == parameters[l].numel(), "`", name,
                    "` must have the shapes of `parameters`, got ", shape_text(tensors[l]), " and ",
                    shape_text(parameters[l]));
  }
}

// Returns the dtype of all.
inline DType check_parameters(const Tensors& parameters) {
  STD_TORCH_CHECK(!parameters.empty(), "`parameters` must not be empty");
  const DType dtype = dtype_of(parameters[0], "parameters");
  check_per_parameter(parameters, "parameters", parameters, parameters[0].scalar_type());
  return dtype;
}

// Returns the dtype of all.
inline DType check_directions(const Tensors& directions, const Tensors& parameters) {
  STD_TORCH_CHECK(!directions.empty(), "`directions` must not be empty");
  const DType dtype = dtype_of(directions[0], "directions");
  STD_TORCH_CHECK(dtype == DType::f32 || dtype == DType::f64,
                  "`directions` must be float32 or float64, got ",
                  torch::headeronly::toString(directions[0].scalar_type()));
  check_per_parameter(directions, "directions", parameters, directions[0].scalar_type());
  return dtype;
}

inline void check_old(const Tensor& old, const Tensors& parameters) {
  check_dim(old, "old", 1);
  check_type(old, "old", parameters[0].scalar_type());
  check_contiguous(old, "old");
}

// Checks everything about a write except what indices and counts hold.
inline void check_write(const Tensors& parameters, const Tensor& indices, const Tensor& counts,
                        const Tensor& values) {
  check_dim(indices, "indices", 1);
  STD_TORCH_CHECK(
      indices.scalar_type() == ScalarType::Long || indices.scalar_type() == ScalarType::Int,
      "`indices` must be Int or Long, got ", torch::headeronly::toString(indices.scalar_type()));
  check_contiguous(indices, "indices");
  check_dim(counts, "counts", 1);
  check_type(counts, "counts", ScalarType::Long);
  check_contiguous(counts, "counts");
  check_size(counts, "counts", 0, static_cast<int64_t>(parameters.size()));
  check_dim(values, "values", 1);
  check_contiguous(values, "values");
  check_size(values, "values", 0, indices.size(0));
  dtype_of(values, "values");
  for (const Tensor& t : parameters) {
    check_type(t, "parameters", values.scalar_type());
    check_contiguous(t, "parameters");
  }
}

}  // namespace fastforget
