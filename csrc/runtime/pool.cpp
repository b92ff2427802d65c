// pool: maximum or average over windows. mean: over whole dimensions. All commute with the scale, so the
// integers may keep it; a mean gives another where it is asked to.
#include <limits>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "csrc/runtime/onednn.h"

namespace jitquant::runtime {

namespace {

using dnnl::memory;

// What ATen would compute, on float copies of the integers: for what oneDNN has no primitive for.
at::Tensor rounded(const at::Tensor& values) { return values.round_().to(at::kByte); }

class Pool final : public Kernel {
 public:
  explicit Pool(Spec given)
      : Kernel(std::move(given)),
        window_(spec_.ints("window")),
        stride_(spec_.ints("stride")),
        padding_(spec_.ints("padding")),
        dilation_(spec_.ints("dilation")) {}

 protected:
  void accept(Inputs& inputs) const override {
    require_bytes(inputs[0], name());
    TORCH_CHECK(inputs[0].dim() == static_cast<int64_t>(window_.size()) + 2, "jitquant::", name(),
                ": the input has ", inputs[0].dim(), " dimensions and ", window_.size() + 2,
                " are needed; call unsqueeze(0) for a batch of one");
    inputs[0] = in_layout(inputs[0], Layout::ChannelsLast);
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    const auto& input = inputs[0].sizes();
    const bool rounds_up = spec_.has("ceil_mode");
    memory::dims before, after, dilation;
    plan->sizes = {input[0], input[1]};
    for (size_t i = 0; i < window_.size(); ++i) {
      const int64_t extent = dilation_[i] * (window_[i] - 1) + 1;
      const int64_t room = input[i + 2] + 2 * padding_[i] - extent;
      TORCH_CHECK(room >= 0, "jitquant::", name(), ": an input of ", input,
                  " is smaller than the window; give it a larger one");
      int64_t size = (room + (rounds_up ? stride_[i] - 1 : 0)) / stride_[i] + 1;
      if (rounds_up && (size - 1) * stride_[i] >= input[i + 2] + padding_[i]) {
        --size;  // the last window has to begin inside
      }
      plan->sizes.push_back(size);
      before.push_back(padding_[i]);
      after.push_back((size - 1) * stride_[i] + extent - input[i + 2] - padding_[i]);
      dilation.push_back(dilation_[i] - 1);
    }
    if (c10::multiply_integers(plan->sizes) == 0) {
      return plan;
    }
    const bool dilated =
        std::any_of(dilation_.begin(), dilation_.end(), [](int64_t step) { return step > 1; });
    if (algorithm() == dnnl::algorithm::pooling_max && window_.size() < 3 && !dilated) {
      // oneDNN takes several times as long.
      plan->implementation = loops().name;
      plan->loop = [this, sizes = plan->sizes](Tensors given, void* out) {
        write_highest(given[0], sizes, static_cast<uint8_t*>(out));
      };
      return plan;
    }
    const dnnl::primitive_attr attributes = new_attributes();
    plan->inputs.emplace_back(DNNL_ARG_SRC, desc_of(input, at::kByte, Layout::ChannelsLast));
    plan->output.second = desc_of(plan->sizes, at::kByte, Layout::ChannelsLast);
    finish<dnnl::pooling_forward>(
        *plan, {engine(), dnnl::prop_kind::forward_inference, algorithm(), plan->inputs[0].second,
                plan->output.second, stride_, window_, dilation, before, after, attributes});
    return plan;
  }

 private:
  dnnl::algorithm algorithm() const {
    if (spec_.word("kind") == "max") {
      return dnnl::algorithm::pooling_max;
    }
    return spec_.has("count_include_pad") ? dnnl::algorithm::pooling_avg_include_padding
                                          : dnnl::algorithm::pooling_avg_exclude_padding;
  }

  // First over the lines of a window, then along the line that this gave. Zeros around it win nowhere.
  void write_highest(const at::Tensor& input, const std::vector<int64_t>& output, uint8_t* out) const {
    const bool flat = window_.size() == 1;
    const int64_t channels = input.size(1);
    const int64_t height = flat ? 1 : input.size(2);
    const int64_t line = input.size(-1) * channels;
    const int64_t windows = output.back();
    const int64_t windows_down = flat ? 1 : output[2];
    const int64_t rows = flat ? 1 : window_[0];
    const int64_t begin = padding_.back() * channels;
    const int64_t end = ((windows - 1) * stride_.back() + window_.back()) * channels;
    const auto* in = input.const_data_ptr<uint8_t>();
    at::parallel_for(0, output[0] * windows_down, std::max<int64_t>(kGrain / (rows * line), 1),
                     [&](int64_t first, int64_t last) {
                       std::vector<uint8_t> scratch(static_cast<size_t>(std::max(begin + line, end)));
                       for (int64_t i = first; i < last; ++i) {
                         const int64_t top = flat ? 0 : i % windows_down * stride_[0] - padding_[0];
                         const int64_t from = std::max<int64_t>(top, 0);
                         const int64_t to = std::min(top + rows, height);
                         const uint8_t* image = in + i / windows_down * height * line;
                         loops().highest(image + from * line, scratch.data() + begin, 1, 0, to - from, line);
                         loops().highest(scratch.data(), out + i * windows * channels, windows,
                                         stride_.back() * channels, window_.back(), channels);
                       }
                     });
  }

  const std::vector<int64_t> window_;
  const std::vector<int64_t> stride_;
  const std::vector<int64_t> padding_;
  const std::vector<int64_t> dilation_;
};

JITQUANT_KERNEL(Pool, "pool");

// An average over windows that lie side by side.
void average(Plan& plan, const at::Tensor& input, const memory::dims& window, const memory::dims& output,
             Layout layout) {
  const memory::dims none(window.size(), 0);
  dnnl::primitive_attr attributes = new_attributes();
  plan.inputs.emplace_back(DNNL_ARG_SRC, desc_of(input.sizes(), at::kByte, layout));
  plan.output.second = desc_of(output, at::kByte, layout);
  finish<dnnl::pooling_forward>(
      plan, {engine(), dnnl::prop_kind::forward_inference, dnnl::algorithm::pooling_avg_exclude_padding,
             plan.inputs[0].second, plan.output.second, window, window, none, none, none, attributes});
}

// adaptive_avg_pool: an average over windows that follow from the sizes of the input and of the output.
class AdaptiveAvgPool final : public Kernel {
 public:
  explicit AdaptiveAvgPool(Spec given) : Kernel(std::move(given)), asked_(spec_.ints("size")) {}

 protected:
  void accept(Inputs& inputs) const override {
    require_bytes(inputs[0], name());
    TORCH_CHECK(inputs[0].dim() == static_cast<int64_t>(asked_.size()) + 2, "jitquant::", name(),
                ": the input has ", inputs[0].dim(), " dimensions and ", asked_.size() + 2,
                " are needed; call unsqueeze(0) for a batch of one");
    inputs[0] = in_layout(inputs[0], Layout::ChannelsLast);
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    const auto& input = inputs[0].sizes();
    memory::dims window;
    bool even = true;
    plan->sizes = {input[0], input[1]};
    for (size_t i = 0; i < asked_.size(); ++i) {
      plan->sizes.push_back(asked_[i]);
      even = even && asked_[i] > 0 && input[i + 2] % asked_[i] == 0 && input[i + 2] > 0;
      window.push_back(even ? input[i + 2] / asked_[i] : 0);
    }
    if (c10::multiply_integers(plan->sizes) == 0) {
      return plan;
    }
    if (!even) {
      plan->compute = [asked = asked_](Tensors given) {
        const at::Tensor values = given[0].to(at::kFloat);
        return rounded(asked.size() == 1   ? at::adaptive_avg_pool1d(values, asked)
                       : asked.size() == 2 ? at::adaptive_avg_pool2d(values, asked)
                                           : at::adaptive_avg_pool3d(values, asked));
      };
      return plan;
    }
    average(*plan, inputs[0], window, plan->sizes, Layout::ChannelsLast);
    return plan;
  }

 private:
  const std::vector<int64_t> asked_;
};

JITQUANT_KERNEL(AdaptiveAvgPool, "adaptive_avg_pool");

class Mean final : public Kernel {
 public:
  explicit Mean(Spec given)
      : Kernel(std::move(given)), axes_(spec_.ints("dim")), rounds_(spec_.has("output")) {
    const QParams input = *spec_.qparams("input");
    const QParams output = rounds_ ? *spec_.qparams("output") : QParams{1, 0};
    factor_ = input.scale / output.scale;
    shift_ = static_cast<double>(output.zero_point) - static_cast<double>(input.zero_point) * factor_;
  }

 protected:
  void accept(Inputs& inputs) const override {
    require_bytes(inputs[0], name());
    for (const int64_t axis : axes_) {
      TORCH_CHECK(axis >= -inputs[0].dim() && axis < inputs[0].dim(), "jitquant::", name(),
                  ": there is no dimension ", axis, " in a tensor of ", inputs[0].dim(),
                  "; give it what the model was made for");
    }
    inputs[0] = in_layout(inputs[0], layout_of(inputs[0]));
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    const at::Tensor& input = inputs[0];
    std::vector<bool> goes(static_cast<size_t>(input.dim()));
    for (const int64_t axis : axes_) {
      goes[static_cast<size_t>(axis < 0 ? axis + input.dim() : axis)] = true;
    }
    memory::dims kept;
    bool covers_space = input.dim() > 2 && input.dim() < 6;
    for (size_t i = 0; i < goes.size(); ++i) {
      kept.push_back(goes[i] ? 1 : input.sizes()[i]);
      covers_space = covers_space && goes[i] == (i > 1);
      if (!goes[i] || spec_.has("keepdim")) {
        plan->sizes.push_back(kept.back());
      }
    }
    plan->layout = layout_of(inputs[0]);
    const bool keep = spec_.has("keepdim");
    const auto columns = columns_of(input, goes, covers_space && plan->layout == Layout::ChannelsLast);
    const bool keeps_scale = rounds_ && factor_ == 1 && shift_ == 0;
    if (covers_space && keeps_scale && input.numel() > 0) {
      average(*plan, input, input.sizes().slice(2).vec(), kept, plan->layout);
    } else if (columns) {
      add_loop(*plan, *columns);
    } else {
      plan->compute = [this, keep](Tensors given) {
        const at::Tensor mean = given[0].to(at::kFloat).mean(axes_, keep).mul_(factor_).add_(shift_);
        return rounds_ ? rounded(mean.clamp_(0, 255)) : mean;
      };
    }
    return plan;
  }

 private:
  // In the order of memory: [outer, rows, inner], of which the rows are averaged.
  struct Columns {
    int64_t outer = 1;
    int64_t rows = 1;
    int64_t inner = 1;
  };

  // Nothing where what is averaged does not lie like that, or where there are no columns.
  static std::optional<Columns> columns_of(const at::Tensor& input, const std::vector<bool>& goes,
                                           bool space_comes_first) {
    Columns found;
    if (space_comes_first) {
      found = {input.size(0), input.numel() / (input.size(0) * input.size(1)), input.size(1)};
    } else if (!input.is_contiguous()) {
      return std::nullopt;
    } else {
      for (size_t i = 0; i < goes.size(); ++i) {
        const int64_t size = input.sizes()[i];
        if (goes[i] && found.inner > 1) {
          return std::nullopt;
        }
        (goes[i] ? found.rows : found.rows > 1 ? found.inner : found.outer) *= size;
      }
    }
    const bool sums_are_exact = found.rows <= 65536;
    return found.inner > 1 && sums_are_exact ? std::optional(found) : std::nullopt;
  }

  void add_loop(Plan& plan, const Columns& columns) const {
    const auto [outer, rows, inner] = columns;
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const bool rounds = rounds_;
    const auto factor = static_cast<float>(factor_ / static_cast<double>(rows));
    const auto shift = static_cast<float>(shift_);
    plan.dtype = rounds ? at::kByte : at::kFloat;
    plan.layout = Layout::Contiguous;
    plan.implementation = loops().name;
    plan.loop = [=](Tensors given, void* out) {
      const auto* in = given[0].const_data_ptr<uint8_t>();
      at::parallel_for(0, outer, std::max<int64_t>(kGrain / (rows * inner), 1),
                       [&](int64_t begin, int64_t end) {
                         for (int64_t i = begin; i < end; ++i) {
                           const uint8_t* from = in + i * rows * inner;
                           if (rounds) {
                             loops().sum_columns(from, static_cast<uint8_t*>(out) + i * inner, rows, inner,
                                                 factor, shift, {0, 255});
                           } else {
                             loops().sum_columns_to_float(from, static_cast<float*>(out) + i * inner, rows,
                                                          inner, factor, shift, {-infinity, infinity});
                           }
                         }
                       });
    };
  }

  const std::vector<int64_t> axes_;
  const bool rounds_;
  double factor_;  // of the mean of the integers
  double shift_;
};

JITQUANT_KERNEL(Mean, "mean");

}  // namespace

}  // namespace jitquant::runtime
