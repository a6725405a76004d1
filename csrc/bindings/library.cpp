// Every operator's schema. Kernels are registered per backend in the file of their operation;
// shapes and meaning are documented with the Python wrapper of each operator.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastforget, m) {
  m.def(
      "fisher_linear(Tensor grad, Tensor input, Tensor weights, Tensor(a!)? fisher, Tensor(b!)? "
      "gradient, Tensor(c!)? bias_fisher, Tensor(d!)? bias_gradient, bool overwrite, "
      "bool tf32=False) -> ()");
  m.def(
      "fisher_convolution(Tensor grad, Tensor input, Tensor weights, int[] stride, int[] padding, "
      "int[] dilation, "
      "int groups, Tensor(a!)? fisher, Tensor(b!)? gradient, Tensor(c!)? bias_fisher, "
      "Tensor(d!)? bias_gradient, bool overwrite, bool tf32=False) -> ()");
  m.def(
      "fisher_affine(Tensor grad, Tensor? input, Tensor? mean, Tensor? rstd, Tensor weights, "
      "Tensor(a!)? scale_fisher, Tensor(b!)? scale_gradient, Tensor(c!)? shift_fisher, "
      "Tensor(d!)? shift_gradient) -> ()");
  m.def(
      "fisher_embedding(Tensor grad, Tensor tokens, Tensor weights, int padding_idx, Tensor(a!)? "
      "fisher, "
      "Tensor(b!)? gradient) -> ()");
  m.def("select(Tensor[] scores, int k) -> (Tensor mask, Tensor threshold)");
  m.def("select_histogram(Tensor[] scores, int prefix, int left, int shift) -> Tensor");
  m.def("select_mask(Tensor mask, Tensor[] like) -> Tensor[]");
  m.def("select_indices(Tensor mask, Tensor[] like, int k) -> (Tensor indices, Tensor counts)");
  m.def(
      "perturb(Tensor(a!)[] parameters, Tensor[] directions, Tensor mask, int k, float alpha) -> "
      "Tensor old");
  m.def("perturb_undo(Tensor(a!)[] parameters, Tensor mask, Tensor old) -> ()");
  m.def(
      "perturb_write(Tensor(a!)[] parameters, Tensor indices, Tensor counts, Tensor values) -> ()");
  m.def("project(Tensor[] grads, Tensor order, bool per_tensor, Tensor(a!)[] out) -> ()");
  m.def("project_gram(Tensor[] grads, int tasks, bool per_tensor) -> Tensor");
  m.def("project_weights(Tensor gram, Tensor order) -> Tensor");
  m.def("project_combine(Tensor[] grads, Tensor weights, Tensor(a!)[] out) -> ()");
  m.def("fingerprint(Tensor[] tensors) -> Tensor");
}
