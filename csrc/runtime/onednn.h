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
// What else may follow a loop of ours: the kernel that takes its float result.
c10::intrusive_ptr<Kernel> activation_behind(const Spec& spec);

// The elementwise function behind a primitive, as post-ops on float numbers, and one number of it.
void append_activation(dnnl::post_ops& ops, const Activation& activation);
// The post-ops of a tail behind a primitive into whose constants its factor or its shift cannot go.
dnnl::post_ops linear_then(double factor, double shift, const dnnl::post_ops& ops);
double activated(const Activation& activation, double x);

// The integer for a number, as far as the range goes.
uint8_t rounded_to(const QParams& params, double number);

// Raises where an input is not uint8.
void require_bytes(const at::Tensor& input, const std::string& kernel);
void require_bytes_or_float(const at::Tensor& input, const std::string& kernel);

// What integers with these parameters, or means of them, stand for, by ATen.
at::Tensor numbers_of(const at::Tensor& integers, const QParams& params);

// A view of as many dimensions as `rank`, with ones in front.
at::Tensor with_rank(const at::Tensor& tensor, int64_t rank);

// The weight of a kernel as primitives ask for it. It is packed once, and again only where another shape
// asks for another layout.
class PackedWeight {
 public:
  dnnl::memory in(const dnnl::memory::desc& asked, const at::Tensor& weight);

 private:
  std::vector<dnnl::memory> known_;
};

// Whether the processor multiplies 8-bit integers without saturating on the way.
bool has_integer_products();

// Raises where the processor cannot multiply 8-bit integers without saturating on the way.
void require_integer_products(const std::string& kernel);

// Attributes of a primitive whose scratchpad a call brings along.
dnnl::primitive_attr new_attributes();

// Tells a primitive the zero point of one of its arguments.
void add_zero_point(Plan& plan, dnnl::primitive_attr& attributes, int argument, int64_t value);

template <typename Primitive>
void finish(Plan& plan, const typename Primitive::primitive_desc& desc) {
  plan.primitive = Primitive(desc);
  plan.implementation = desc.impl_info_str();
  plan.scratchpad = desc.scratchpad_desc();
}

}  // namespace jitquant::runtime
