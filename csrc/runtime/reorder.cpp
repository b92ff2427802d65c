// quantize and dequantize: between float and integers, joined with the change of layout. cat: tensors one
// behind another, brought to one scale.
#include <ATen/ATen.h>

#include "csrc/runtime/onednn.h"

namespace jitquant::runtime {

namespace {

Layout layout_of(const at::Tensor& tensor) {
  return tensor.dim() > 2 && !tensor.is_contiguous() ? Layout::ChannelsLast : Layout::Contiguous;
}

// A tensor that lies in one of the two layouts.
at::Tensor in_some_layout(const at::Tensor& tensor) {
  return in_layout(tensor, tensor.is_contiguous() ? Layout::Contiguous : Layout::ChannelsLast);
}

class Quantize final : public Kernel {
 public:
  explicit Quantize(Spec given) : Kernel(std::move(given)) {}

 protected:
  void accept(Inputs& inputs) const override {
    TORCH_CHECK(inputs[0].scalar_type() == at::kFloat, "jitquant::quantize: the input is ",
                inputs[0].scalar_type(), " and has to be float32; convert it with .float()");
    inputs[0] = in_some_layout(inputs[0]);
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    const auto output = *spec_.qparams("output");
    plan->sizes = inputs[0].sizes().vec();
    plan->layout = inputs[0].dim() > 3 ? Layout::ChannelsLast : layout_of(inputs[0]);
    if (inputs[0].numel() == 0) {
      return plan;
    }
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    attributes.set_scales_mask(DNNL_ARG_SRC, 0);
    plan->constants.emplace_back(DNNL_ARG_ATTR_SCALES | DNNL_ARG_SRC,
                                 constant_memory(static_cast<float>(1 / output.scale)));
    if (output.zero_point != 0) {
      attributes.set_zero_points_mask(DNNL_ARG_DST, 0);
      plan->constants.emplace_back(DNNL_ARG_ATTR_ZERO_POINTS | DNNL_ARG_DST,
                                   constant_memory(static_cast<int32_t>(output.zero_point)));
    }
    plan->inputs.emplace_back(DNNL_ARG_SRC, desc_of(inputs[0]));
    plan->output.second = desc_of(plan->sizes, plan->dtype, plan->layout);
    finish<dnnl::reorder>(*plan,
                          {engine(), plan->inputs[0].second, engine(), plan->output.second, attributes});
    return plan;
  }
};

JITQUANT_KERNEL(Quantize, "quantize");

class Dequantize final : public Kernel {
 public:
  explicit Dequantize(Spec given) : Kernel(std::move(given)) {}

 protected:
  void accept(Inputs& inputs) const override {
    require_bytes(inputs[0], name());
    inputs[0] = in_some_layout(inputs[0]);
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    const auto input = *spec_.qparams("input");
    plan->sizes = inputs[0].sizes().vec();
    plan->layout = layout_of(inputs[0]);
    plan->dtype = at::kFloat;
    if (inputs[0].numel() == 0) {
      return plan;
    }
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    attributes.set_scales_mask(DNNL_ARG_SRC, 0);
    plan->constants.emplace_back(DNNL_ARG_ATTR_SCALES | DNNL_ARG_SRC,
                                 constant_memory(static_cast<float>(input.scale)));
    if (input.zero_point != 0) {
      attributes.set_zero_points_mask(DNNL_ARG_SRC, 0);
      plan->constants.emplace_back(DNNL_ARG_ATTR_ZERO_POINTS | DNNL_ARG_SRC,
                                   constant_memory(static_cast<int32_t>(input.zero_point)));
    }
    plan->inputs.emplace_back(DNNL_ARG_SRC, desc_of(inputs[0]));
    plan->output.second = desc_of(plan->sizes, plan->dtype, plan->layout);
    finish<dnnl::reorder>(*plan,
                          {engine(), plan->inputs[0].second, engine(), plan->output.second, attributes});
    return plan;
  }
};

JITQUANT_KERNEL(Dequantize, "dequantize");

}  // namespace

}  // namespace jitquant::runtime
