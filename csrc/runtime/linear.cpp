// linear: a matrix product with a weight, with what follows it.
#include <ATen/ATen.h>

#include "csrc/runtime/linear_weight.h"
#include "csrc/runtime/onednn.h"
#include "csrc/runtime/residual.h"

namespace jitquant::runtime {

namespace {

using dnnl::memory;

class Linear final : public Kernel {
 public:
  explicit Linear(Spec given) : Kernel(std::move(given)), weight_(spec_.tensors.at(0)) {
    require_integer_products(name());
  }

 protected:
  void accept(Inputs& inputs) const override {
    const at::Tensor& input = inputs[0];
    require_features(input, weight_, name());
    require_bytes(input, name());
    for (auto& tensor : inputs) {
      tensor = tensor.contiguous();
    }
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    Tail tail = has_factors() ? without_output() : Tail(spec_, "other");
    plan->sizes = product_sizes(inputs[0], weight_);
    plan->layout = Layout::Contiguous;
    plan->dtype = has_factors() ? at::kByte : tail.dtype;
    if (inputs.size() > 1) {
      if (!adds_in_place(inputs[1], *plan)) {
        plan->compute = add_apart(spec_);
        return plan;
      }
      plan->overwrites = 1;
    }
    if (c10::multiply_integers(plan->sizes) == 0) {
      return plan;
    }
    const memory::desc line({1, weight_.size(0)}, memory::data_type::f32, memory::format_tag::ab);
    if (has_factors()) {
      add_factors(*plan, tail, line);
    }
    const int64_t rows = inputs[0].numel() / weight_.size(1);
    const auto src = desc_of({rows, weight_.size(1)}, at::kByte, Layout::Contiguous);
    const auto dst = desc_of({rows, weight_.size(0)}, tail.dtype, Layout::Contiguous);

    dnnl::primitive_attr attributes = new_attributes();
    attributes.set_scales_mask(DNNL_ARG_WEIGHTS, 2);
    attributes.set_post_ops(tail.ops);
    const dnnl::matmul::primitive_desc desc(
        engine(), src, any_desc({weight_.size(1), weight_.size(0)}, at::kChar), line, dst, attributes);
    plan->inputs.emplace_back(DNNL_ARG_SRC, src);
    plan->output.second = dst;
    plan->constants.emplace_back(DNNL_ARG_WEIGHTS, packed_.in(desc.weights_desc(), weight_.t()));
    add_numbers(*plan, tail);
    finish<dnnl::matmul>(*plan, desc);
    plan->multiply_adds = rows * weight_.numel();
    return plan;
  }

 private:
  bool has_factors() const { return spec_.tensors.size() > 3; }

  Tail without_output() const {
    Spec inner = spec_;
    inner.erase("output");
    return Tail(inner, "other");
  }

  // Behind the elementwise function: the factors, with the output's scale in them, and its zero point.
  void add_factors(Plan& plan, Tail& tail, const memory::desc& line) const {
    const QParams output = *spec_.qparams("output");
    const int argument = DNNL_ARG_ATTR_MULTIPLE_POST_OP(tail.ops.len()) | DNNL_ARG_SRC_1;
    plan.constants.emplace_back(argument, constant_memory(spec_.tensors[3] / output.scale, line));
    tail.ops.append_binary(dnnl::algorithm::binary_mul, line);
    if (output.zero_point != 0) {
      tail.ops.append_eltwise(dnnl::algorithm::eltwise_linear, 1, static_cast<float>(output.zero_point));
    }
    tail.dtype = at::kByte;
  }

  void add_numbers(Plan& plan, const Tail& tail) const {
    const QParams input = *spec_.qparams("input");
    const at::Tensor factors = scales_of(spec_) * (input.scale * tail.factor);
    const at::Tensor zeros = sums_of(weight_) * factors * static_cast<double>(input.zero_point);
    const at::Tensor bias = bias_of(spec_) * tail.factor - zeros + tail.shift;
    const at::Tensor scales = factors.to(at::kFloat).contiguous();
    plan.constants.emplace_back(
        DNNL_ARG_BIAS,
        constant_memory(bias.to(at::kFloat),
                        {{1, weight_.size(0)}, memory::data_type::f32, memory::format_tag::ab}));
    plan.constants.emplace_back(
        DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS,
        constant_memory(scales, {{weight_.size(0)}, memory::data_type::f32, memory::format_tag::x}));
  }

  const at::Tensor weight_;  // int8 [output, input]
  PackedWeight packed_;
};

JITQUANT_KERNEL(Linear, "linear");

}  // namespace

}  // namespace jitquant::runtime
