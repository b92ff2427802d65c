// linear_dynamic: a matrix product of floats and an integer weight, with what follows it. The input is made
// integer with the range that it has at this call.
#include <cmath>

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>

#include "csrc/observers/vectorized.h"
#include "csrc/runtime/onednn.h"
#include "csrc/runtime/residual.h"

namespace jitquant::runtime {

namespace {

using dnnl::memory;

struct Range {  // with zero in it
  float low = 0;
  float high = 0;
};

// In lanes, since minima of floats may not change their order otherwise.
JITQUANT_VECTORIZED void extend(const float* values, int64_t count, Range* range) {
  constexpr int64_t kLanes = 16;
  float low[kLanes] = {};
  float high[kLanes] = {};
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float value = values[i + lane];
      low[lane] = value < low[lane] ? value : low[lane];
      high[lane] = value > high[lane] ? value : high[lane];
    }
  }
  for (int64_t i = whole; i < count; ++i) {
    low[0] = values[i] < low[0] ? values[i] : low[0];
    high[0] = values[i] > high[0] ? values[i] : high[0];
  }
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    range->low = low[lane] < range->low ? low[lane] : range->low;
    range->high = high[lane] > range->high ? high[lane] : range->high;
  }
}

QParams params_of(const Range& range) {
  constexpr double smallest = 1e-30;  // whose inverse is a float
  const double scale = (static_cast<double>(range.high) - range.low) / 255;
  if (scale < smallest) {
    return {1, 0};
  }
  const double zero_point = std::isfinite(scale) ? std::nearbyint(-range.low / scale) : 0;
  return {scale, static_cast<int64_t>(zero_point)};
}

class LinearDynamic final : public Kernel {
 public:
  explicit LinearDynamic(Spec given) : Kernel(std::move(given)), weight_(spec_.tensors.at(0)) {
    require_integer_products(name());
    const Tail tail(spec_, "other");
    const int64_t channels = weight_.size(0);
    const at::Tensor factors = spec_.tensors.at(1).to(at::kDouble).expand({channels}) * tail.factor;
    at::Tensor bias = at::zeros({channels}, at::kDouble);
    if (spec_.tensors.size() > 2) {
      bias = spec_.tensors[2].to(at::kDouble) * tail.factor;
    }
    factors_ = factors.to(at::kFloat).contiguous();
    zeros_ = (weight_.to(at::kDouble).sum(1) * factors).to(at::kFloat).contiguous();
    bias_ = (bias + tail.shift).to(at::kFloat).contiguous();
  }

 protected:
  // The integers, the scales and the bias of this call, and what is added.
  void accept(Inputs& inputs) const override {
    const at::Tensor& input = inputs[0];
    TORCH_CHECK(input.dim() > 0 && input.size(-1) == weight_.size(1), "jitquant::", name(),
                ": the input has ", input.dim() > 0 ? input.size(-1) : 0, " features and the weight takes ",
                weight_.size(1), "; give it what the model was made for");
    TORCH_CHECK(input.scalar_type() == at::kFloat, "jitquant::", name(), ": the input is ",
                input.scalar_type(), " and has to be float32; convert it with .float()");
    const at::Tensor floats = input.contiguous();
    const QParams params = params_of(range_of(floats));
    const at::Tensor integers = quantized(floats, params);
    Inputs accepted{integers, at::empty_like(factors_), at::empty_like(bias_)};
    fill(params, accepted[1].data_ptr<float>(), accepted[2].data_ptr<float>());
    if (inputs.size() > 1) {
      accepted.push_back(widened(inputs[1], sizes_for(input)));
    }
    inputs = std::move(accepted);
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    const Tail tail(spec_, "other");
    plan->sizes = sizes_for(inputs[0]);
    plan->layout = Layout::Contiguous;
    plan->dtype = at::kFloat;
    if (inputs.size() > 3) {
      if (!adds_in_place(inputs[3], *plan)) {
        plan->compute = sum_apart();
        return plan;
      }
      plan->overwrites = 3;
    }
    if (c10::multiply_integers(plan->sizes) == 0) {
      return plan;
    }
    const int64_t rows = inputs[0].numel() / weight_.size(1);
    const auto src = desc_of({rows, weight_.size(1)}, at::kByte, Layout::Contiguous);
    const auto dst = desc_of({rows, weight_.size(0)}, at::kFloat, Layout::Contiguous);
    const memory::desc line({1, weight_.size(0)}, memory::data_type::f32, memory::format_tag::ab);
    const memory::desc scales({weight_.size(0)}, memory::data_type::f32, memory::format_tag::x);
    dnnl::primitive_attr attributes = new_attributes();
    attributes.set_scales_mask(DNNL_ARG_WEIGHTS, 2);
    attributes.set_post_ops(tail.ops);
    const dnnl::matmul::primitive_desc desc(
        engine(), src, any_desc({weight_.size(1), weight_.size(0)}, at::kChar), line, dst, attributes);
    plan->inputs.emplace_back(DNNL_ARG_SRC, src);
    plan->inputs.emplace_back(DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS, scales);
    plan->inputs.emplace_back(DNNL_ARG_BIAS, line);
    plan->output.second = dst;
    plan->constants.emplace_back(DNNL_ARG_WEIGHTS, packed_.in(desc.weights_desc(), weight_.t()));
    finish<dnnl::matmul>(*plan, desc);
    plan->multiply_adds = rows * weight_.numel();
    return plan;
  }

 private:
  std::vector<int64_t> sizes_for(const at::Tensor& input) const {
    std::vector<int64_t> sizes = input.sizes().vec();
    sizes.back() = weight_.size(0);
    return sizes;
  }

  static Range range_of(const at::Tensor& floats) {
    const auto* data = floats.const_data_ptr<float>();
    return at::parallel_reduce(
        0, floats.numel(), kGrain, Range{},
        [&](int64_t begin, int64_t end, Range range) {
          extend(data + begin, end - begin, &range);
          return range;
        },
        [](Range a, Range b) { return Range{std::min(a.low, b.low), std::max(a.high, b.high)}; });
  }

  static at::Tensor quantized(const at::Tensor& floats, const QParams& params) {
    at::Tensor result = at::detail::empty_cpu(floats.sizes(), at::kByte);
    const auto* in = floats.const_data_ptr<float>();
    auto* out = result.data_ptr<uint8_t>();
    at::parallel_for(0, floats.numel(), kGrain, [&](int64_t begin, int64_t end) {
      loops().quantize(in + begin, out + begin, end - begin, static_cast<float>(1 / params.scale),
                       static_cast<int>(params.zero_point));
    });
    return result;
  }

  void fill(const QParams& params, float* scales, float* bias) const {
    const auto* factors = factors_.const_data_ptr<float>();
    const auto* zeros = zeros_.const_data_ptr<float>();
    const auto* own = bias_.const_data_ptr<float>();
    const auto scale = static_cast<float>(params.scale);
    const auto shift = static_cast<float>(params.scale * static_cast<double>(params.zero_point));
    for (int64_t i = 0; i < weight_.size(0); ++i) {
      scales[i] = factors[i] * scale;
      bias[i] = own[i] - zeros[i] * shift;
    }
  }

  // As large as the product where it can be.
  static at::Tensor widened(const at::Tensor& other, const std::vector<int64_t>& sizes) {
    const bool fits = other.scalar_type() == at::kFloat && at::is_expandable_to(other.sizes(), sizes);
    return fits ? other.expand(sizes).contiguous() : other;
  }

  // What is added makes the result larger, or is no float32: rare.
  std::function<at::Tensor(Tensors)> sum_apart() const {
    const Tail tail(spec_, "other");
    return [tail, finish = activation_behind(spec_), weight = weight_.t().to(at::kDouble)](Tensors given) {
      // A linear function behind the sum has gone into scales and bias.
      at::Tensor product = at::matmul(given[0].to(at::kDouble), weight) * given[1] + given[2];
      product = (product - tail.shift) / tail.factor;
      return finish->run({(product + given[3]).to(at::kFloat)});
    };
  }

  const at::Tensor weight_;  // int8 [output, input]
  at::Tensor factors_;       // of each output channel: its weight's scale,
  at::Tensor zeros_;         // its sum of weights times that,
  at::Tensor bias_;          // and its bias
  PackedWeight packed_;
};

JITQUANT_KERNEL(LinearDynamic, "linear_dynamic");

}  // namespace

}  // namespace jitquant::runtime
