// softmax and layer_norm: along an axis, from float or integers, to float or integers.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "csrc/runtime/onednn.h"

namespace jitquant::runtime {

namespace {

using dnnl::memory;

class Softmax final : public Kernel {
 public:
  explicit Softmax(Spec given) : Kernel(std::move(given)), axis_(spec_.integer("dim")) {}

 protected:
  void accept(Inputs& inputs) const override {
    at::Tensor& input = inputs[0];
    require_bytes_or_float(input, name());
    TORCH_CHECK(axis_ >= -input.dim() && axis_ < input.dim(), "jitquant::", name(),
                ": there is no dimension ", axis_, " in a tensor of ", input.dim(),
                "; give it what the model was made for");
    if (input.scalar_type() == at::kByte) {
      input = numbers_of(input, *spec_.qparams("input"));
    }
    // Along the last dimension the loop needs rows.
    const bool along_rows = axis_ == -1 || axis_ == input.dim() - 1;
    input = along_rows ? input.contiguous() : in_layout(input, layout_of(input));
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    const Tail tail(spec_, "none");
    plan->dtype = tail.dtype;
    plan->sizes = inputs[0].sizes().vec();
    plan->layout = layout_of(inputs[0]);
    if (inputs[0].numel() == 0) {
      return plan;
    }
    const int64_t axis = axis_ < 0 ? axis_ + inputs[0].dim() : axis_;
    const int64_t columns = inputs[0].size(axis);
    if (plan->dtype == at::kByte && (columns == 1 || inputs[0].stride(axis) == 1)) {
      // oneDNN takes twice the time where its result is integers.
      plan->implementation = loops().name;
      plan->loop = [columns, factor = static_cast<float>(tail.factor),
                    shift = static_cast<float>(tail.shift)](Tensors given, void* out) {
        const auto* in = given[0].const_data_ptr<float>();
        const int64_t rows = given[0].numel() / columns;
        at::parallel_for(0, rows, std::max<int64_t>(kGrain / 8 / columns, 1),
                         [&](int64_t begin, int64_t end) {
                           std::vector<float> scratch(static_cast<size_t>(columns));
                           loops().softmax(in + begin * columns, static_cast<uint8_t*>(out) + begin * columns,
                                           end - begin, columns, factor, shift, scratch.data());
                         });
      };
      return plan;
    }
    if (plan->dtype == at::kByte) {
      plan->compute = along_rows(axis, plan->layout);
      return plan;
    }
    dnnl::primitive_attr attributes = new_attributes();
    attributes.set_post_ops(linear_then(tail.factor, tail.shift, tail.ops));
    plan->inputs.emplace_back(DNNL_ARG_SRC, desc_of(inputs[0]));
    plan->output.second = desc_of(plan->sizes, plan->dtype, plan->layout);
    finish<dnnl::softmax_forward>(
        *plan, {engine(), dnnl::prop_kind::forward_inference, dnnl::algorithm::softmax_accurate,
                plan->inputs[0].second, plan->output.second, static_cast<int>(axis), attributes});
    return plan;
  }

 private:
  // oneDNN has none but its reference for other strides.
  std::function<at::Tensor(Tensors)> along_rows(int64_t axis, Layout layout) const {
    Spec rows = spec_;
    rows.set("dim", std::vector<int64_t>{-1});
    return [softmax = make_kernel(rows), axis, layout](Tensors given) {
      return in_layout(softmax->run({given[0].transpose(axis, -1)}).transpose(axis, -1), layout);
    };
  }

  const int64_t axis_;
};

JITQUANT_KERNEL(Softmax, "softmax");

// The scale of integers cancels out but for epsilon, and the zero point does altogether. The scale and the
// zero point of the output go into weight and bias.
class LayerNorm final : public Kernel {
 public:
  explicit LayerNorm(Spec given) : Kernel(std::move(given)), shape_(spec_.ints("shape")) {}

 protected:
  void accept(Inputs& inputs) const override {
    require_bytes_or_float(inputs[0], name());
    const auto rank = static_cast<int64_t>(shape_.size());
    TORCH_CHECK(inputs[0].dim() >= rank &&
                    inputs[0].sizes().slice(static_cast<size_t>(inputs[0].dim() - rank)) == shape_,
                "jitquant::", name(), ": the input is ", inputs[0].sizes(), " and has to end in ", shape_,
                "; give it what the model was made for");
    inputs[0] = inputs[0].contiguous();
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    const Tail tail(spec_, "none");
    plan->dtype = tail.dtype;
    plan->sizes = inputs[0].sizes().vec();
    plan->layout = Layout::Contiguous;
    const int64_t columns = c10::multiply_integers(shape_);
    if (inputs[0].numel() == 0) {
      return plan;
    }
    const memory::dims rows{inputs[0].numel() / columns, columns};
    const bool integers = inputs[0].scalar_type() == at::kByte;
    const double unit = integers ? spec_.qparams("input")->scale : 1;
    dnnl::primitive_attr attributes = new_attributes();
    plan->inputs.emplace_back(DNNL_ARG_SRC, desc_of(rows, inputs[0].scalar_type(), Layout::Contiguous));
    plan->output.second = desc_of(rows, plan->dtype, Layout::Contiguous);
    const at::Tensor weight = spec_.tensors.at(0).to(at::kDouble).flatten() * tail.factor;
    const at::Tensor bias = spec_.tensors.at(1).to(at::kDouble).flatten() * tail.factor + tail.shift;
    const memory::desc line({columns}, memory::data_type::f32, memory::format_tag::x);
    plan->constants.emplace_back(DNNL_ARG_SCALE, constant_memory(weight.to(at::kFloat), line));
    plan->constants.emplace_back(DNNL_ARG_SHIFT, constant_memory(bias.to(at::kFloat), line));
    const auto flags = dnnl::normalization_flags::use_scale | dnnl::normalization_flags::use_shift;
    finish<dnnl::layer_normalization_forward>(
        *plan, {engine(), dnnl::prop_kind::forward_inference, plan->inputs[0].second, plan->output.second,
                static_cast<float>(spec_.number("epsilon") / (unit * unit)), flags, attributes});
    return plan;
  }

 private:
  const std::vector<int64_t> shape_;
};

JITQUANT_KERNEL(LayerNorm, "layer_norm");

}  // namespace

}  // namespace jitquant::runtime
