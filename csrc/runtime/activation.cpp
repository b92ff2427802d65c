// activation: an elementwise function alone. Of bytes it is a table, of floats a oneDNN primitive.
#include <array>
#include <cmath>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "csrc/runtime/onednn.h"

namespace jitquant::runtime {

namespace {

using dnnl::memory;

class ElementwiseActivation final : public Kernel {
 public:
  explicit ElementwiseActivation(Spec given) : Kernel(std::move(given)) {
    const QParams input = *spec_.qparams("input");
    const auto output = spec_.qparams("output");
    const Activation activation = spec_.activation();
    for (int i = 0; i < 256; ++i) {
      const double x = (i - static_cast<double>(input.zero_point)) * input.scale;
      const double y = activated(activation, x);
      numbers_[static_cast<size_t>(i)] = static_cast<float>(y);
      if (output) {
        bytes_[static_cast<size_t>(i)] = rounded_to(*output, y);
      }
    }
  }

 protected:
  // Integers, or floats with no scale of their own.
  void accept(Inputs& inputs) const override {
    require_bytes_or_float(inputs[0], name());
    inputs[0] = in_layout(inputs[0], layout_of(inputs[0]));
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    plan->dtype = spec_.has("output") ? at::kByte : at::kFloat;
    plan->sizes = inputs[0].sizes().vec();
    plan->layout = layout_of(inputs[0]);
    if (inputs[0].numel() == 0) {
      return plan;
    }
    if (inputs[0].scalar_type() == at::kFloat && plan->dtype == at::kByte) {
      plan->compute = in_two_steps();
      return plan;
    }
    if (inputs[0].scalar_type() == at::kFloat) {
      add_primitive(*plan, inputs[0]);
      return plan;
    }
    plan->implementation = loops().name;
    if (plan->dtype == at::kByte) {
      plan->loop = [table = bytes_](Tensors given, void* out) {
        const auto* in = given[0].const_data_ptr<uint8_t>();
        at::parallel_for(0, given[0].numel(), kGrain, [&](int64_t begin, int64_t end) {
          loops().look_up(in + begin, static_cast<uint8_t*>(out) + begin, end - begin, table.data());
        });
      };
    } else {
      plan->loop = [table = numbers_](Tensors given, void* out) {
        const auto* in = given[0].const_data_ptr<uint8_t>();
        at::parallel_for(0, given[0].numel(), kGrain, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            static_cast<float*>(out)[i] = table[in[i]];
          }
        });
      };
    }
    return plan;
  }

 private:
  // oneDNN's elementwise functions of floats give floats.
  std::function<at::Tensor(Tensors)> in_two_steps() const {
    Spec first = spec_;
    first.erase("output");
    Spec second;
    second.set("kernel", std::string("quantize"));
    second.set("output", *spec_.qparams("output"));
    return [compute = make_kernel(first), round = make_kernel(second)](Tensors given) {
      return round->run({compute->run(given)});
    };
  }

  // Of one dimension: each element is like any other, however they lie.
  void add_primitive(Plan& plan, const at::Tensor& input) const {
    const Tail tail(spec_, "none");
    const QParams given = *spec_.qparams("input");
    // Behind another function oneDNN has but its reference kernel.
    const double factor = given.scale * tail.factor;
    auto kind = dnnl::algorithm::eltwise_linear;
    auto alpha = static_cast<float>(factor);
    auto beta = static_cast<float>(tail.shift - factor * static_cast<double>(given.zero_point));
    dnnl::primitive_attr attributes = new_attributes();
    if (tail.ops.len() == 1 && alpha == 1 && beta == 0) {
      tail.ops.get_params_eltwise(0, kind, alpha, beta);
    } else {
      attributes.set_post_ops(tail.ops);
    }
    const memory::dims line{input.numel()};
    plan.inputs.emplace_back(DNNL_ARG_SRC, desc_of(line, at::kFloat, Layout::Contiguous));
    plan.output.second = desc_of(line, plan.dtype, Layout::Contiguous);
    finish<dnnl::eltwise_forward>(plan, {engine(), dnnl::prop_kind::forward_inference, kind,
                                         plan.inputs[0].second, plan.output.second, alpha, beta, attributes});
  }

  std::array<uint8_t, 256> bytes_{};
  std::array<float, 256> numbers_{};
};

JITQUANT_KERNEL(ElementwiseActivation, "activation");

}  // namespace

}  // namespace jitquant::runtime
