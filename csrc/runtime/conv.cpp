// conv: convolution and transposed convolution in one, two or three dimensions, with what follows it.
#include <algorithm>
#include <cstring>
#include <set>

#include <ATen/ATen.h>

#include "csrc/runtime/depthwise.h"
#include "csrc/runtime/onednn.h"
#include "csrc/runtime/residual.h"

namespace jitquant::runtime {

namespace {

using dnnl::memory;

class Conv final : public Kernel {
 public:
  explicit Conv(Spec given)
      : Kernel(std::move(given)),
        stride_(spec_.ints("stride")),
        before_(spec_.ints("padding")),
        after_(before_),
        dilation_(spec_.ints("dilation")),
        groups_(spec_.integer("groups")),
        transposed_(spec_.has("output_padding")),
        weight_(spec_.tensors.at(0)),
        spatial_(static_cast<int64_t>(stride_.size())) {
    require_integer_products(name());
    const auto spatial = static_cast<memory::dims::difference_type>(spatial_);
    if (before_.size() == 2 * stride_.size()) {  // the sides differ
      after_.assign(before_.begin() + spatial, before_.end());
      before_.resize(stride_.size());
    }
  }

 protected:
  void accept(Inputs& inputs) const override {
    const at::Tensor& input = inputs[0];
    TORCH_CHECK(input.dim() == spatial_ + 2, "jitquant::", name(), ": the input has ", input.dim(),
                " dimensions and ", spatial_ + 2, " are needed (batch, channels, ", spatial_,
                " of space); call unsqueeze(0) for a batch of one");
    const int64_t channels = transposed_ ? weight_.size(0) : weight_.size(1) * groups_;
    TORCH_CHECK(input.size(1) == channels, "jitquant::", name(), ": the input has ", input.size(1),
                " channels and the weight takes ", channels, "; give it what the model was made for");
    require_bytes(input, name());
    for (auto& tensor : inputs) {
      tensor = tensor.dim() == spatial_ + 2 ? in_layout(tensor, Layout::ChannelsLast) : tensor;
    }
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    const Tail tail(spec_, "other");
    plan->sizes = output_sizes(inputs[0].sizes());
    plan->dtype = tail.dtype;
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
    if (transposed_ && !linear_tail(spec_)) {
      plan->compute = activation_apart();
      return plan;
    }
    if (is_depthwise3d() && inputs.size() == 1) {
      plan->loop = depthwise3d(spec_, {stride_, before_, dilation_}, plan->sizes);
      if (plan->loop) {
        plan->implementation = loops().name;
        plan->multiply_adds = multiply_adds_of(inputs[0], *plan);
        return plan;
      }
    }
    const auto src = desc_of(inputs[0].sizes(), at::kByte, Layout::ChannelsLast);
    const auto dst = desc_of(plan->sizes, tail.dtype, Layout::ChannelsLast);
    const at::Tensor weight = grouped_weight();
    const auto weights = any_desc(weight.sizes(), at::kChar);
    const memory::desc bias({plan->sizes[1]}, memory::data_type::f32, memory::format_tag::x);

    dnnl::primitive_attr attributes = new_attributes();
    attributes.set_scales_mask(DNNL_ARG_WEIGHTS, groups_ > 1 ? 3 : 1);
    attributes.set_post_ops(tail.ops);
    const bool shifts_in_padding = input_zero_point() != 0 && is_padded();
    if (shifts_in_padding) {
      add_zero_point(*plan, attributes, DNNL_ARG_SRC, input_zero_point());
    }
    memory::dims dilation;
    for (const int64_t step : dilation_) {
      dilation.push_back(step - 1);
    }
    plan->inputs.emplace_back(DNNL_ARG_SRC, src);
    plan->output.second = dst;
    auto add_constants = [&](const memory::desc& asked) {
      plan->constants.emplace_back(DNNL_ARG_WEIGHTS, packed_.in(asked, weight));
    };
    if (transposed_) {
      dnnl::deconvolution_forward::primitive_desc desc(
          engine(), dnnl::prop_kind::forward_inference, dnnl::algorithm::deconvolution_direct, src, weights,
          bias, dst, stride_, dilation, before_, cut_off(inputs[0].sizes(), plan->sizes), attributes);
      pass_over_wrong_kernel(desc);
      add_constants(desc.weights_desc());
      finish<dnnl::deconvolution_forward>(*plan, desc);
    } else {
      dnnl::convolution_forward::primitive_desc desc(engine(), dnnl::prop_kind::forward_inference,
                                                     dnnl::algorithm::convolution_direct, src, weights, bias,
                                                     dst, stride_, dilation, before_, after_, attributes);
      pass_over_wrong_kernel(desc);
      add_constants(desc.weights_desc());
      finish<dnnl::convolution_forward>(*plan, desc);
    }
    add_numbers(*plan, tail, /*fold_zero_point=*/!shifts_in_padding);
    plan->multiply_adds = multiply_adds_of(inputs[0], *plan);
    return plan;
  }

 private:
  bool is_depthwise3d() const {
    return spatial_ == 3 && !transposed_ && groups_ > 1 && weight_.size(0) == groups_ && weight_.size(1) == 1;
  }

  int64_t multiply_adds_of(const at::Tensor& input, const Plan& plan) const {
    return (transposed_ ? input.numel() : c10::multiply_integers(plan.sizes)) *
           (weight_.numel() / weight_.size(0));
  }

  void pass_over_wrong_kernel(dnnl::convolution_forward::primitive_desc& desc) const {
    while (is_wrong(desc.impl_info_str()) && desc.next_impl()) {
    }
  }

  bool is_wrong(const std::string& kernel) const {
    return (kernel == "brgconv:avx512_core_amx" && has_rest_of_channels()) ||
           (kernel == "jit:avx512_core_amx" && is_padded() && is_dilated());
  }

  // oneDNN 3.2 gives wrong sums where the channels do not fill the lines of AMX's tiles, and a row of the
  // window does: it then forgets that each channel count has a rest.
  bool has_rest_of_channels() const {
    const int64_t channels = weight_.size(1);
    const int64_t row = channels * weight_.size(-1);
    return groups_ == 1 && channels % 64 != 0 && row % 64 == 0 && row > 64;
  }

  // Its other kernel then adds the padding's share of the zero point wrongly, or writes beyond its memory.
  bool is_dilated() const {
    return std::any_of(dilation_.begin(), dilation_.end(), [](int64_t step) { return step > 1; });
  }

  // Others forget the zero point, or part of the input, where none of it reaches a place of the result.
  void pass_over_wrong_kernel(dnnl::deconvolution_forward::primitive_desc& desc) const {
    const bool risky = !reaches_all();
    while (risky && std::strncmp(desc.impl_info_str(), "jit_", 4) == 0 && desc.next_impl()) {
    }
  }

  // Of a transposed convolution: the steps of the window fall on all places between two of the stride, and
  // nothing is added behind the last.
  bool reaches_all() const {
    const auto extra = spec_.ints("output_padding");
    for (size_t i = 0; i < stride_.size(); ++i) {
      std::set<int64_t> places;
      for (int64_t step = 0; step < weight_.size(static_cast<int64_t>(i) + 2); ++step) {
        places.insert(step * dilation_[i] % stride_[i]);
      }
      if (static_cast<int64_t>(places.size()) < stride_[i] || extra[i] > after_[i]) {
        return false;
      }
    }
    return true;
  }

  // The primitives of transposed convolutions have elementwise functions that differ in their last bits.
  std::function<at::Tensor(Tensors)> activation_apart() const {
    Spec product = spec_;
    product.erase("output");
    product.erase("activation");
    return [multiply = make_kernel(product), finish = activation_behind(spec_)](Tensors given) {
      return finish->run({multiply->run(given)});
    };
  }

  int64_t input_zero_point() const { return spec_.qparams("input")->zero_point; }

  bool is_padded() const {
    const memory::dims none(stride_.size(), 0);
    return transposed_ || before_ != none || after_ != none;
  }

  int64_t extent(size_t i) const {
    return dilation_[i] * (weight_.size(static_cast<int64_t>(i) + 2) - 1) + 1;
  }

  std::vector<int64_t> output_sizes(c10::IntArrayRef input) const {
    std::vector<int64_t> sizes{input[0], transposed_ ? weight_.size(1) * groups_ : weight_.size(0)};
    const auto extra = transposed_ ? spec_.ints("output_padding") : std::vector<int64_t>(stride_.size(), 0);
    for (size_t i = 0; i < stride_.size(); ++i) {
      const int64_t size = input[i + 2];
      const int64_t padding = before_[i] + after_[i];
      const int64_t room = size + padding - extent(i);
      const int64_t given = transposed_ ? (size - 1) * stride_[i] - padding + extent(i) + extra[i]
                            : room >= 0 ? room / stride_[i] + 1
                                        : 0;
      TORCH_CHECK(given > 0, "jitquant::", name(), ": an input of ", input,
                  " is smaller than the kernel; give it a larger one");
      sizes.push_back(given);
    }
    return sizes;
  }

  // What oneDNN takes from the end of a transposed convolution's result.
  memory::dims cut_off(c10::IntArrayRef input, const std::vector<int64_t>& output) const {
    memory::dims after;
    for (size_t i = 0; i < stride_.size(); ++i) {
      after.push_back((input[i + 2] - 1) * stride_[i] + extent(i) - output[i + 2] - before_[i]);
    }
    return after;
  }

  // [groups, output, input, ...] where there are groups, and output before input in a transposed one.
  at::Tensor grouped_weight() const {
    std::vector<int64_t> sizes = weight_.sizes().vec();
    if (groups_ == 1) {
      return transposed_ ? weight_.transpose(0, 1) : weight_;
    }
    sizes[0] /= groups_;
    sizes.insert(sizes.begin(), groups_);
    const at::Tensor grouped = weight_.view(sizes);
    return transposed_ ? grouped.transpose(1, 2) : grouped;
  }

  // Scales of the weights with all that is linear folded in, and the biases.
  void add_numbers(Plan& plan, const Tail& tail, bool fold_zero_point) const {
    const double input_scale = spec_.qparams("input")->scale;
    const at::Tensor factors =
        spec_.tensors.at(1).to(at::kDouble) * (input_scale * tail.factor);  // one, or one for each channel
    at::Tensor bias = at::zeros({plan.sizes[1]}, at::kDouble);
    if (spec_.tensors.size() > 2) {
      bias = spec_.tensors[2].to(at::kDouble) * tail.factor;
    }
    if (fold_zero_point && input_zero_point() != 0) {
      const at::Tensor sums = weight_.flatten(1).to(at::kDouble).sum(1);
      bias = bias - sums * factors * static_cast<double>(input_zero_point());
    }
    const at::Tensor scales = factors.expand({plan.sizes[1]}).to(at::kFloat).contiguous();
    bias = (bias + tail.shift).to(at::kFloat).contiguous();
    const memory::desc line({plan.sizes[1]}, memory::data_type::f32, memory::format_tag::x);
    plan.constants.emplace_back(DNNL_ARG_BIAS, constant_memory(bias, line));
    plan.constants.emplace_back(DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS, constant_memory(scales, line));
  }

  const std::vector<int64_t> stride_;
  memory::dims before_;  // padding of each dimension of space
  memory::dims after_;
  const std::vector<int64_t> dilation_;
  const int64_t groups_;
  const bool transposed_;
  const at::Tensor weight_;  // int8, as torch has it
  const int64_t spatial_;
  PackedWeight packed_;
};

JITQUANT_KERNEL(Conv, "conv");

}  // namespace

}  // namespace jitquant::runtime
