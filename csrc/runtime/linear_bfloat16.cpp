// linear_bfloat16: a matrix product of floats that are rounded to bfloat16 and a weight of bfloat16, with
// what follows it. It is summed in float32, which is also what it gives.
//
// oneDNN is fast where the processor has matrix instructions for it (AMX): 27 µs for 128 rows of 384 to 384,
// and 202 of float32. Elsewhere it is slower than float32 (340 µs on AVX512-BF16, 1,070 on AVX-512) or has
// nothing at all, so there the rounded numbers are multiplied as float32: a product of two of them is exact
// in that, so the numbers are the same up to the order of the sums.
#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>

#include "csrc/runtime/linear_weight.h"
#include "csrc/runtime/onednn.h"
#include "csrc/runtime/residual.h"

namespace jitquant::runtime {

namespace {

using dnnl::memory;

bool has_matrix_instructions() {
  const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  const auto asked = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_amx);
  return (isa & asked) == asked;
}

class LinearBfloat16 final : public Kernel {
 public:
  explicit LinearBfloat16(Spec given)
      : Kernel(std::move(given)),
        operands_(has_matrix_instructions() ? at::kBFloat16 : at::kFloat),
        weight_(spec_.tensors.at(0).to(operands_)) {
    bias_ = at::zeros({weight_.size(0)});
    if (spec_.tensors.size() > 1) {
      bias_ = spec_.tensors[1].to(at::kFloat);
    }
  }

 protected:
  void accept(Inputs& inputs) const override {
    const at::Tensor& input = inputs[0];
    require_features(input, weight_, name());
    require_float(input, name());
    const auto sizes = product_sizes(input, weight_);
    if (inputs.size() > 1) {
      if (!adds_to(inputs[1], sizes)) {
        return;
      }
      inputs[1] = inputs[1].expand(sizes).contiguous();
    }
    inputs[0] = input.contiguous().to(at::kBFloat16).to(operands_);
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    plan->sizes = product_sizes(inputs[0], weight_);
    plan->layout = Layout::Contiguous;
    plan->dtype = at::kFloat;
    if (inputs.size() > 1) {
      if (!adds_in_place(inputs[1], *plan)) {
        plan->compute = add_apart(spec_);
        return plan;
      }
      plan->overwrites = 1;
    }
    const int64_t columns = weight_.size(0);
    const int64_t rows = c10::multiply_integers(plan->sizes) / std::max<int64_t>(columns, 1);
    if (rows == 0 || columns == 0) {
      return plan;
    }
    const auto src = desc_of({rows, weight_.size(1)}, operands_, Layout::Contiguous);
    const auto dst = desc_of({rows, columns}, at::kFloat, Layout::Contiguous);
    const memory::desc line({1, columns}, memory::data_type::f32, memory::format_tag::ab);
    dnnl::primitive_attr attributes = new_attributes();
    attributes.set_post_ops(behind_product());
    const dnnl::matmul::primitive_desc desc(engine(), src, any_desc({weight_.size(1), columns}, operands_),
                                            line, dst, attributes);
    plan->inputs.emplace_back(DNNL_ARG_SRC, src);
    plan->output.second = dst;
    plan->constants.emplace_back(DNNL_ARG_WEIGHTS, packed_.in(desc.weights_desc(), weight_.t()));
    plan->constants.emplace_back(DNNL_ARG_BIAS, constant_memory(bias_, line));
    finish<dnnl::matmul>(*plan, desc);
    plan->multiply_adds = rows * weight_.numel();
    return plan;
  }

 private:
  dnnl::post_ops behind_product() const {
    dnnl::post_ops ops;
    if (spec_.has("sum")) {
      ops.append_sum(1);
    }
    const Activation activation = spec_.activation();
    if (activation.name == "linear") {
      ops.append_eltwise(dnnl::algorithm::eltwise_linear, static_cast<float>(activation.arguments.at(0)),
                         static_cast<float>(activation.arguments.at(1)));
    } else {
      append_activation(ops, activation);
    }
    return ops;
  }

  const at::ScalarType operands_;
  const at::Tensor weight_;  // [output, input]
  at::Tensor bias_;
  PackedWeight packed_;
};

JITQUANT_KERNEL(LinearBfloat16, "linear_bfloat16");

}  // namespace

}  // namespace jitquant::runtime
