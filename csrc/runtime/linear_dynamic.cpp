// linear_dynamic: a matrix product of floats and an integer weight, with what follows it. The input is made
// integer with the range that each of its rows has at this call: a few rows with large numbers would take the
// steps of all others along.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>

#include "csrc/runtime/linear_weight.h"
#include "csrc/runtime/onednn.h"
#include "csrc/runtime/residual.h"

namespace jitquant::runtime {

namespace {

using dnnl::memory;

Spec without_sum(Spec spec) {
  spec.erase("sum");
  return spec;
}

class LinearDynamic final : public Kernel {
 public:
  explicit LinearDynamic(Spec given) : Kernel(std::move(given)), weight_(spec_.tensors.at(0)) {
    require_integer_products(name());
    const Tail tail(without_sum(spec_), "other");
    const at::Tensor factors = scales_of(spec_) * tail.factor;
    factor_ = static_cast<float>(tail.factor);
    factors_ = factors.to(at::kFloat).contiguous();
    zeros_ = (sums_of(weight_) * factors).to(at::kFloat).contiguous();
    bias_ = (bias_of(spec_) * tail.factor + tail.shift).to(at::kFloat).contiguous();
  }

 protected:
  // The integers, the scale of each row, and what the sums begin with. An operand of the add that makes the
  // result larger, or is no float32, stays as it is.
  void accept(Inputs& inputs) const override {
    const at::Tensor& input = inputs[0];
    require_features(input, weight_, name());
    require_float(input, name());
    const auto sizes = product_sizes(input, weight_);
    if (inputs.size() > 1 && !adds_to(inputs[1], sizes)) {
      return;
    }
    const at::Tensor floats = input.contiguous();
    const int64_t rows = floats.numel() / std::max<int64_t>(weight_.size(1), 1);
    const at::Tensor integers = at::detail::empty_cpu(floats.sizes(), at::kByte);
    const at::Tensor scales = at::detail::empty_cpu({rows}, at::kFloat);
    const at::Tensor shifts = at::detail::empty_cpu({rows}, at::kFloat);
    quantize_rows(floats, integers, scales, shifts);
    const at::Tensor other = inputs.size() > 1 ? inputs[1].expand(sizes).contiguous() : at::Tensor();
    const bool overwrites = in_place_ && other.is_alias_of(inputs[1]) && other.sizes() == inputs[1].sizes();
    const at::Tensor sums = overwrites ? other : at::Tensor(at::detail::empty_cpu(sizes, at::kFloat));
    begin_sums(other, shifts, sums);
    inputs = {integers, scales, sums};
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    if (inputs.size() == 2) {
      plan->compute = add_apart(spec_);
      return plan;
    }
    plan->sizes = inputs[2].sizes().vec();
    plan->dtype = at::kFloat;
    plan->overwrites = 2;
    plan->is_fresh = true;
    const int64_t rows = inputs[1].numel();
    const int64_t columns = weight_.size(0);
    if (rows == 0 || columns == 0) {
      return plan;
    }
    // In three dimensions, since oneDNN multiplies the rows of two only by its reference code.
    const auto src = desc_of({1, rows, weight_.size(1)}, at::kByte, Layout::Contiguous);
    const auto dst = desc_of({1, rows, columns}, at::kFloat, Layout::Contiguous);
    const auto of_rows = desc_of({1, rows, 1}, at::kFloat, Layout::Contiguous);
    dnnl::primitive_attr attributes = new_attributes();
    attributes.set_scales_mask(DNNL_ARG_WEIGHTS, 4);
    attributes.set_post_ops(behind_product(of_rows));
    const dnnl::matmul::primitive_desc desc(engine(), src, any_desc({1, weight_.size(1), columns}, at::kChar),
                                            dst, attributes);
    plan->inputs.emplace_back(DNNL_ARG_SRC, src);
    plan->inputs.emplace_back(DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, of_rows);
    plan->output.second = dst;
    plan->constants.emplace_back(DNNL_ARG_WEIGHTS, packed_.in(desc.weights_desc(), weight_.t().unsqueeze(0)));
    plan->constants.emplace_back(
        DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS,
        constant_memory(factors_, {{columns}, memory::data_type::f32, memory::format_tag::x}));
    finish<dnnl::matmul>(*plan, desc);
    plan->multiply_adds = rows * weight_.numel();
    return plan;
  }

 private:
  dnnl::post_ops behind_product(const memory::desc& of_rows) const {
    dnnl::post_ops ops;
    ops.append_binary(dnnl::algorithm::binary_mul, of_rows);
    ops.append_sum(1);
    const Activation activation = spec_.activation();
    if (activation.name != "linear") {  // which has gone into scales and bias
      append_activation(ops, activation);
    }
    return ops;
  }

  void quantize_rows(const at::Tensor& floats, const at::Tensor& integers, const at::Tensor& scales,
                     const at::Tensor& shifts) const {
    const int64_t columns = weight_.size(1);
    const auto* in = floats.const_data_ptr<float>();
    auto* out = integers.data_ptr<uint8_t>();
    auto* scale = scales.data_ptr<float>();
    auto* shift = shifts.data_ptr<float>();
    at::parallel_for(0, scales.numel(), grain(columns), [&](int64_t begin, int64_t end) {
      loops().quantize_rows(in + begin * columns, out + begin * columns, end - begin, columns, scale + begin,
                            shift + begin);
    });
  }

  // The bias, what is added, and the share of the zero points in the product.
  void begin_sums(const at::Tensor& other, const at::Tensor& shifts, const at::Tensor& sums) const {
    const int64_t columns = weight_.size(0);
    const auto* added = other.defined() ? other.const_data_ptr<float>() : nullptr;
    const auto* shift = shifts.const_data_ptr<float>();
    const auto* zeros = zeros_.const_data_ptr<float>();
    const auto* bias = bias_.const_data_ptr<float>();
    auto* out = sums.data_ptr<float>();
    at::parallel_for(0, shifts.numel(), grain(columns), [&](int64_t begin, int64_t end) {
      loops().begin_sums(added == nullptr ? nullptr : added + begin * columns, factor_, out + begin * columns,
                         end - begin, columns, shift + begin, zeros, bias);
    });
  }

  static int64_t grain(int64_t columns) {
    return std::max<int64_t>(kGrain / std::max<int64_t>(columns, 1), 1);
  }

  const at::Tensor weight_;  // int8 [output, input]
  float factor_;             // of a linear function behind the sum,
  at::Tensor factors_;       // of each output channel: its weight's scale,
  at::Tensor zeros_;         // its sum of weights times that,
  at::Tensor bias_;          // and its bias
  PackedWeight packed_;
};

JITQUANT_KERNEL(LinearDynamic, "linear_dynamic");

}  // namespace

}  // namespace jitquant::runtime
