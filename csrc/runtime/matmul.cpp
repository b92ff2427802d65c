// matmul: products of two activations, with what follows them.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>

#include "csrc/runtime/onednn.h"

namespace jitquant::runtime {

namespace {

using dnnl::memory;

// What oneDNN multiplies with has to be signed: 128 less, with the same strides.
at::Tensor signed_copy(const at::Tensor& bytes) {
  const at::Tensor dense = bytes.is_non_overlapping_and_dense() ? bytes : bytes.contiguous();
  at::Tensor result = at::detail::empty_strided_cpu(dense.sizes(), dense.strides(), at::kChar);
  make_signed(dense.const_data_ptr<uint8_t>(), result.data_ptr<int8_t>(), dense.numel());
  return result;
}

class Matmul final : public Kernel {
 public:
  explicit Matmul(Spec given)
      : Kernel(std::move(given)), left_(*spec_.qparams("input")), right_(*spec_.qparams("other")) {
    require_integer_products(name());
  }

 protected:
  void accept(Inputs& inputs) const override {
    for (const auto& input : inputs) {
      require_bytes(input, name());
      TORCH_CHECK(input.dim() > 1, "jitquant::", name(), ": an operand has ", input.dim(),
                  " dimensions and needs two or more; call unsqueeze on it");
    }
    TORCH_CHECK(inputs[0].size(-1) == inputs[1].size(-2), "jitquant::", name(), ": ", inputs[0].sizes(),
                " and ", inputs[1].sizes(), " cannot be multiplied; give it what the model was made for");
    const int64_t rank = std::max(inputs[0].dim(), inputs[1].dim());
    inputs[0] = with_rank(packed_rows(inputs[0]), rank);
    inputs[1] = with_rank(signed_copy(packed_rows(inputs[1])), rank);
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    const Tail tail(spec_, "none");
    plan->dtype = tail.dtype;
    plan->layout = Layout::Contiguous;
    plan->sizes = output_sizes(inputs[0].sizes(), inputs[1].sizes());
    if (c10::multiply_integers(plan->sizes) == 0) {
      return plan;
    }
    if (heads_lie_inside(inputs[1])) {
      const auto& s = plan->sizes;
      plan->strides = {s[1] * s[2] * s[3], s[3], s[1] * s[3], 1};
    }
    const int64_t depth = inputs[0].size(-1);
    TORCH_CHECK(depth > 0, "jitquant::", name(), ": operands of ", inputs[0].sizes(), " and ",
                inputs[1].sizes(), " have nothing to multiply; give it what the model was made for");
    dnnl::primitive_attr attributes = new_attributes();
    attributes.set_scales_mask(DNNL_ARG_WEIGHTS, 0);
    plan->constants.emplace_back(
        DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS,
        constant_memory(static_cast<float>(left_.scale * right_.scale * tail.factor)));
    add_zero_point(*plan, attributes, DNNL_ARG_SRC, left_.zero_point);
    add_zero_point(*plan, attributes, DNNL_ARG_WEIGHTS, right_.zero_point - 128);
    attributes.set_post_ops(linear_then(1, tail.shift, tail.ops));
    plan->inputs.emplace_back(DNNL_ARG_SRC, desc_of(inputs[0]));
    plan->inputs.emplace_back(DNNL_ARG_WEIGHTS, desc_of(inputs[1]));
    plan->output.second = {plan->sizes, data_type(tail.dtype),
                           plan->strides.empty() ? strides_of(plan->sizes, plan->layout) : plan->strides};
    finish<dnnl::matmul>(
        *plan, {engine(), plan->inputs[0].second, plan->inputs[1].second, plan->output.second, attributes});
    plan->multiply_adds = c10::multiply_integers(plan->sizes) * depth;
    return plan;
  }

 private:
  // Rows or columns whose elements stand side by side: of others, oneDNN has only its reference kernel.
  static at::Tensor packed_rows(const at::Tensor& tensor) {
    return tensor.stride(-1) == 1 || tensor.stride(-2) == 1 ? tensor : tensor.contiguous();
  }

  static std::vector<int64_t> output_sizes(c10::IntArrayRef left, c10::IntArrayRef right) {
    const size_t batches = left.size() - 2;
    std::vector<int64_t> sizes = at::infer_size(left.slice(0, batches), right.slice(0, batches));
    sizes.push_back(left[batches]);
    sizes.push_back(right[batches + 1]);
    return sizes;
  }

  // Heads of attention that were split from one row each: the result lies as they do, so that putting them
  // together again moves nothing.
  static bool heads_lie_inside(const at::Tensor& right) {
    return right.dim() == 4 && right.stride(3) == 1 && right.size(1) > 1 && right.stride(1) < right.stride(2);
  }

  const QParams left_;
  const QParams right_;
};

JITQUANT_KERNEL(Matmul, "matmul");

}  // namespace

}  // namespace jitquant::runtime
