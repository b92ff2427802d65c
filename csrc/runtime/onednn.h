// Between ATen and oneDNN: dtypes, layouts, errors, attributes.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "csrc/runtime/kernel.h"
#include "csrc/runtime/loops.h"

namespace jitquant::runtime {

// Raises what oneDNN reports.
void check(dnnl_status_t status, const char* what);

dnnl::memory::data_type data_type(at::ScalarType dtype);
std::vector<int64_t> strides_of(c10::IntArrayRef sizes, Layout layout);
dnnl::memory::desc desc_of(const at::Tensor& tensor);  // as it lies
dnnl::memory::desc desc_of(c10::IntArrayRef sizes, at::ScalarType dtype, Layout layout);
// oneDNN chooses the layout.
dnnl::memory::desc any_desc(c10::IntArrayRef sizes, at::ScalarType dtype);

// The tensor itself, or a copy in that layout. A size-one batch or channel lies in both.
at::Tensor in_layout(const at::Tensor& tensor, Layout layout);

// In channels-last where one of them does not lie contiguous, and contiguous otherwise.
Layout layout_of(c10::ArrayRef<at::Tensor> tensors);

// Constants as oneDNN memory, which owns a copy of the data.
dnnl::memory constant_memory(float value);
dnnl::memory constant_memory(int32_t value);
dnnl::memory constant_memory(const at::Tensor& tensor, const dnnl::memory::desc& desc);

// Reorders a tensor into the layout that a primitive asked for.
dnnl::memory packed(const at::Tensor& tensor, const dnnl::memory::desc& asked);

// Bounds of the integers of a dtype.
std::pair<double, double> integer_bounds(at::ScalarType dtype);

// The tail of a kernel that multiplies and adds: from its float results to what it writes. Where everything
// behind the sum is linear or a clip, the output's scale goes into the factors of the weights and no
// arithmetic is left to be done behind it.
struct Tail {
  Tail(const Spec& spec, const char* other_name);

  at::ScalarType dtype;  // of the output
  double factor = 1;     // to multiply scales and biases with
  double shift = 0;      // to add to biases, in units of the output
  dnnl::post_ops ops;
};

// The same for a loop of ours, where what follows is linear or a clip: else nothing.
struct LinearTail {
  double factor;
  double shift;
  Bounds bounds;
};
std::optional<LinearTail> linear_tail(const Spec& spec);

// The elementwise function behind a primitive, as post-ops on float numbers, and one number of it.
void append_activation(dnnl::post_ops& ops, const Activation& activation);
void append_all(dnnl::post_ops& ops, const dnnl::post_ops& more);  // of elementwise ones
double activated(const Activation& activation, double x);

// Raises where an input is not uint8.
void require_bytes(const at::Tensor& input, const std::string& kernel);

// Raises where the processor cannot multiply 8-bit integers without saturating on the way.
void require_integer_products(const std::string& kernel);

template <typename Primitive>
void finish(Plan& plan, const typename Primitive::primitive_desc& desc) {
  plan.primitive = Primitive(desc);
  plan.implementation = desc.impl_info_str();
  plan.scratchpad = desc.scratchpad_desc();
}

}  // namespace jitquant::runtime
