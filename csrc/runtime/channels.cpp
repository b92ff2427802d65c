// cat: tensors one behind another, brought to one scale. channel_shuffle: channels in another order.
#include <array>
#include <cmath>
#include <cstring>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "csrc/runtime/onednn.h"

namespace jitquant::runtime {

namespace {

class Cat final : public Kernel {
 public:
  explicit Cat(Spec given) : Kernel(std::move(given)), axis_(spec_.integer("dim")) {
    const QParams output = *spec_.qparams("output");
    for (int64_t i = 0; i < spec_.integer("inputs"); ++i) {
      const QParams input = *spec_.qparams("input" + std::to_string(i));
      auto& table = tables_.emplace_back();
      for (int byte = 0; byte < 256; ++byte) {
        const double x = (byte - static_cast<double>(input.zero_point)) * input.scale;
        table[static_cast<size_t>(byte)] = rounded_to(output, x);
      }
      changes_.push_back(input.scale != output.scale || input.zero_point != output.zero_point);
    }
  }

 protected:
  void accept(Inputs& inputs) const override {
    TORCH_CHECK(inputs.size() == tables_.size(), "jitquant::", name(), ": ", inputs.size(),
                " tensors are given and the kernel joins ", tables_.size(), "; quantize the model again");
    const at::Tensor& first = inputs[0];
    TORCH_CHECK(axis_ >= -first.dim() && axis_ < first.dim(), "jitquant::", name(),
                ": there is no dimension ", axis_, " in a tensor of ", first.dim(),
                "; give it what the model was made for");
    const auto axis = static_cast<size_t>(axis_ < 0 ? axis_ + first.dim() : axis_);
    for (const auto& input : inputs) {
      require_bytes(input, name());
      bool fits = input.dim() == first.dim();
      for (size_t i = 0; fits && i < input.sizes().size(); ++i) {
        fits = i == axis || input.sizes()[i] == first.sizes()[i];
      }
      TORCH_CHECK(fits, "jitquant::", name(), ": cannot join ", input.sizes(), " to ", first.sizes(),
                  " along dimension ", axis_, "; all others have to be equal");
    }
    const Layout layout = layout_of(inputs);
    for (auto& input : inputs) {
      input = in_layout(input, layout);
    }
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    plan->layout = layout_of(inputs);
    plan->sizes = inputs[0].sizes().vec();
    const size_t rank = plan->sizes.size();
    const auto axis = static_cast<size_t>(axis_ < 0 ? axis_ + inputs[0].dim() : axis_);
    // In the order of memory: how often, and how many bytes of each input at a time.
    int64_t outer = 1;
    int64_t inner = 1;
    bool behind = false;
    for (size_t i = 0; i < rank; ++i) {
      const size_t at = plan->layout == Layout::Contiguous || i == 0 ? i : i + 1 == rank ? 1 : i + 1;
      (behind ? inner : outer) *= at == axis ? 1 : plan->sizes[at];
      behind = behind || at == axis;
    }
    std::vector<int64_t> widths;
    int64_t width = 0;
    plan->sizes[axis] = 0;
    for (const auto& input : inputs) {
      plan->sizes[axis] += input.sizes()[axis];
      widths.push_back(input.sizes()[axis] * inner);
      width += widths.back();
    }
    if (outer * width == 0) {
      return plan;
    }
    plan->implementation = loops().name;
    plan->loop = [this, outer, widths, width](Tensors given, void* result) {
      at::parallel_for(0, outer, std::max<int64_t>(kGrain / width, 1), [&](int64_t begin, int64_t end) {
        auto* part = static_cast<uint8_t*>(result);
        for (size_t i = 0; i < widths.size(); part += widths[i], ++i) {
          copy(given[i].const_data_ptr<uint8_t>(), part, begin, end, widths[i], width, i);
        }
      });
    };
    return plan;
  }

 private:
  void copy(const uint8_t* from, uint8_t* to, int64_t begin, int64_t end, int64_t width, int64_t step,
            size_t input) const {
    for (int64_t row = begin; row < end; ++row) {
      if (changes_[input]) {
        loops().look_up(from + row * width, to + row * step, width, tables_[input].data());
      } else {
        std::memcpy(to + row * step, from + row * width, static_cast<size_t>(width));
      }
    }
  }

  const int64_t axis_;
  std::vector<std::array<uint8_t, 256>> tables_;  // from the scale of each input to that of the result
  std::vector<bool> changes_;
};

JITQUANT_KERNEL(Cat, "cat");

class ChannelShuffle final : public Kernel {
 public:
  explicit ChannelShuffle(Spec given) : Kernel(std::move(given)), groups_(spec_.integer("groups")) {}

 protected:
  void accept(Inputs& inputs) const override {
    require_bytes(inputs[0], name());
    TORCH_CHECK(inputs[0].dim() > 2 && inputs[0].size(1) % groups_ == 0, "jitquant::", name(),
                ": an input of ", inputs[0].sizes(), " has no channels that ", groups_,
                " divides; give it what the model was made for");
    inputs[0] = in_layout(inputs[0], Layout::ChannelsLast);
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    plan->sizes = inputs[0].sizes().vec();
    const int64_t channels = inputs[0].size(1);
    if (inputs[0].numel() == 0) {
      return plan;
    }
    plan->implementation = "loop";
    plan->loop = [channels, pixels = inputs[0].numel() / channels, groups = groups_](Tensors given,
                                                                                     void* result) {
      const auto* from = given[0].const_data_ptr<uint8_t>();
      auto* to = static_cast<uint8_t*>(result);
      const int64_t each = channels / groups;
      at::parallel_for(0, pixels, std::max<int64_t>(kGrain / channels, 1), [&](int64_t begin, int64_t end) {
        for (int64_t at = begin * channels; at < end * channels; at += channels) {
          if (groups == 2) {
            interleave2(from + at, from + at + each, to + at, each);
            continue;
          }
          for (int64_t group = 0; group < groups; ++group) {
            for (int64_t i = 0; i < each; ++i) {
              to[at + i * groups + group] = from[at + group * each + i];
            }
          }
        }
      });
    };
    return plan;
  }

 private:
  const int64_t groups_;
};

JITQUANT_KERNEL(ChannelShuffle, "channel_shuffle");

}  // namespace

}  // namespace jitquant::runtime
