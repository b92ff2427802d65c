// batch_norm: a factor and a shift for each channel, with what follows.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "csrc/runtime/onednn.h"

namespace jitquant::runtime {

namespace {

class BatchNorm final : public Kernel {
 public:
  explicit BatchNorm(Spec given)
      : Kernel(std::move(given)), channels_(spec_.tensors.at(0).numel()), tail_(linear_tail(spec_)) {
    if (!tail_) {
      next_ = activation_behind(spec_);
      tail_ = linear_tail(Spec());
    }
    const QParams input = *spec_.qparams("input");
    const at::Tensor factors = spec_.tensors.at(0).to(at::kDouble) * (input.scale * tail_->factor);
    const at::Tensor shifts = spec_.tensors.at(1).to(at::kDouble) * tail_->factor + tail_->shift -
                              factors * static_cast<double>(input.zero_point);
    factors_ = factors.to(at::kFloat).contiguous();
    shifts_ = shifts.to(at::kFloat).contiguous();
  }

 protected:
  void accept(Inputs& inputs) const override {
    require_bytes(inputs[0], name());
    TORCH_CHECK(inputs[0].dim() > 1 && inputs[0].size(1) == channels_, "jitquant::", name(),
                ": the input is ", inputs[0].sizes(), " and has to have ", channels_,
                " channels in its second dimension; give it what the model was made for");
    inputs[0] = in_layout(inputs[0], Layout::ChannelsLast);
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    plan->sizes = inputs[0].sizes().vec();
    plan->dtype = spec_.has("output") ? at::kByte : at::kFloat;
    if (inputs[0].numel() == 0) {
      return plan;
    }
    plan->implementation = loops().name;
    const bool to_float = next_ || plan->dtype == at::kFloat;
    plan->loop = [this, to_float](Tensors given, void* out) {
      const auto* in = given[0].const_data_ptr<uint8_t>();
      const auto* factors = factors_.const_data_ptr<float>();
      const auto* shifts = shifts_.const_data_ptr<float>();
      at::parallel_for(0, given[0].numel() / channels_, std::max<int64_t>(kGrain / channels_, 1),
                       [&](int64_t begin, int64_t end) {
                         const int64_t at = begin * channels_;
                         if (to_float) {
                           loops().affine_to_float(in + at, static_cast<float*>(out) + at, end - begin,
                                                   channels_, factors, shifts, tail_->bounds);
                         } else {
                           loops().affine(in + at, static_cast<uint8_t*>(out) + at, end - begin, channels_,
                                          factors, shifts, tail_->bounds);
                         }
                       });
    };
    if (next_) {
      plan->compute = [loop = plan->loop, next = next_](Tensors given) {
        at::Tensor numbers = at::empty_strided(
            given[0].sizes(), strides_of(given[0].sizes(), Layout::ChannelsLast), at::kFloat);
        loop(given, numbers.data_ptr());
        return next->run({numbers});
      };
    }
    return plan;
  }

 private:
  const int64_t channels_;
  std::optional<LinearTail> tail_;
  c10::intrusive_ptr<Kernel> next_;  // what follows where it is not linear
  at::Tensor factors_;
  at::Tensor shifts_;
};

JITQUANT_KERNEL(BatchNorm, "batch_norm");

}  // namespace

}  // namespace jitquant::runtime
