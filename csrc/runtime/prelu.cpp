// prelu: what is negative times a slope, another one for each channel.
#include <array>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "csrc/runtime/onednn.h"

namespace jitquant::runtime {

namespace {

class PRelu final : public Kernel {
 public:
  explicit PRelu(Spec given) : Kernel(std::move(given)) {
    const QParams input = *spec_.qparams("input");
    const QParams output = *spec_.qparams("output");
    const at::Tensor slopes = spec_.tensors.at(0).to(at::kDouble).contiguous();
    tables_.resize(static_cast<size_t>(slopes.numel()));
    for (size_t channel = 0; channel < tables_.size(); ++channel) {
      const double slope = slopes.const_data_ptr<double>()[channel];
      for (int byte = 0; byte < 256; ++byte) {
        const double x = (byte - static_cast<double>(input.zero_point)) * input.scale;
        tables_[channel][static_cast<size_t>(byte)] = rounded_to(output, x < 0 ? slope * x : x);
      }
    }
  }

 protected:
  void accept(Inputs& inputs) const override {
    require_bytes(inputs[0], name());
    TORCH_CHECK(inputs[0].dim() > 1 && inputs[0].size(1) == static_cast<int64_t>(tables_.size()),
                "jitquant::", name(), ": the input is ", inputs[0].sizes(), " and has to have ",
                tables_.size(), " channels in its second dimension; give it what the model was made for");
    inputs[0] = in_layout(inputs[0], Layout::ChannelsLast);
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    plan->sizes = inputs[0].sizes().vec();
    if (inputs[0].numel() == 0) {
      return plan;
    }
    plan->implementation = "loop";
    plan->loop = [this](Tensors given, void* result) {
      const auto* from = given[0].const_data_ptr<uint8_t>();
      auto* to = static_cast<uint8_t*>(result);
      const auto channels = static_cast<int64_t>(tables_.size());
      at::parallel_for(0, given[0].numel() / channels, std::max<int64_t>(kGrain / channels, 1),
                       [&](int64_t begin, int64_t end) {
                         for (int64_t pixel = begin; pixel < end; ++pixel) {
                           for (int64_t channel = 0; channel < channels; ++channel) {
                             const int64_t at = pixel * channels + channel;
                             to[at] = tables_[static_cast<size_t>(channel)][from[at]];
                           }
                         }
                       });
    };
    return plan;
  }

 private:
  std::vector<std::array<uint8_t, 256>> tables_;
};

JITQUANT_KERNEL(PRelu, "prelu");

}  // namespace

}  // namespace jitquant::runtime
