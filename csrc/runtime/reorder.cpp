// quantize and dequantize: between float and integers, joined with the change of layout and with padding.
#include <cstring>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "csrc/runtime/onednn.h"

namespace jitquant::runtime {

namespace {

class Quantize final : public Kernel {
 public:
  explicit Quantize(Spec given) : Kernel(std::move(given)) {
    const QParams output = *spec_.qparams("output");
    inverse_scale_ = 1.0F / static_cast<float>(output.scale);  // as ATen computes it
    zero_point_ = static_cast<int>(output.zero_point);
    if (!spec_.tensors.empty()) {
      factors_ = spec_.tensors[0] * inverse_scale_;
    }
  }

 protected:
  void accept(Inputs& inputs) const override {
    TORCH_CHECK(inputs[0].scalar_type() == at::kFloat, "jitquant::quantize: the input is ",
                inputs[0].scalar_type(), " and has to be float32; convert it with .float()");
    if (factors_.defined()) {
      TORCH_CHECK(inputs[0].dim() > 0 && inputs[0].size(-1) == factors_.numel(),
                  "jitquant::quantize: the input is ", inputs[0].sizes(), " and has to end in ",
                  factors_.numel(), "; give it what the model was made for");
      inputs[0] = inputs[0].contiguous();
      return;
    }
    inputs[0] = in_layout(inputs[0], layout_of(inputs[0]));
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    const at::Tensor& input = inputs[0];
    plan->sizes = input.sizes().vec();
    if (factors_.defined()) {
      add_columns(*plan);
      return plan;
    }
    plan->layout = input.dim() > 3 ? Layout::ChannelsLast : layout_of(input);
    const bool moves = plan->layout == Layout::ChannelsLast && input.is_contiguous() && input.size(1) > 1 &&
                       input.numel() > input.size(0) * input.size(1);
    if (spec_.has("padding")) {
      add_padded(*plan, moves);
      return plan;
    }
    if (input.numel() == 0) {
      return plan;
    }
    plan->implementation = loops().name;
    if (moves) {
      plan->loop = [this](Tensors given, void* out) {
        to_channels_last(given[0], static_cast<uint8_t*>(out));
      };
    } else {
      plan->loop = [this](Tensors given, void* out) {
        const auto* in = given[0].const_data_ptr<float>();
        at::parallel_for(0, given[0].numel(), kGrain, [&](int64_t begin, int64_t end) {
          round(in + begin, static_cast<uint8_t*>(out) + begin, end - begin);
        });
      };
    }
    return plan;
  }

 private:
  void add_columns(Plan& plan) const {
    plan.layout = Layout::Contiguous;
    plan.implementation = loops().name;
    plan.loop = [this, columns = factors_.numel()](Tensors given, void* out) {
      const auto* in = given[0].const_data_ptr<float>();
      const int64_t rows = given[0].numel() / columns;
      at::parallel_for(0, rows, std::max<int64_t>(kGrain / columns, 1), [&](int64_t begin, int64_t end) {
        loops().quantize_columns(in + begin * columns, static_cast<uint8_t*>(out) + begin * columns,
                                 end - begin, columns, factors_.const_data_ptr<float>(), zero_point_);
      });
    };
  }

  void round(const float* in, uint8_t* out, int64_t count) const {
    loops().quantize(in, out, count, inverse_scale_, zero_point_);
  }

  // `count` pixels from each plane. Scratch: a byte for each of their channels.
  void move_pixels(const float* in, int64_t plane, uint8_t* out, int64_t count, int64_t channels,
                   uint8_t* scratch) const {
    for (int64_t channel = 0; channel < channels; ++channel) {
      round(in + channel * plane, scratch + channel * count, count);
    }
    if (channels == 3) {
      loops().interleave3(scratch, count, out, count);
    } else {
      transpose(scratch, count, out, channels, count);
    }
  }

  // Piece by piece, small enough for a cache: all planes become bytes, which then change places.
  void to_channels_last(const at::Tensor& input, uint8_t* out) const {
    const auto* in = input.const_data_ptr<float>();
    const int64_t channels = input.size(1);
    const int64_t plane = input.numel() / (input.size(0) * channels);
    const int64_t piece = std::min(plane, std::max<int64_t>(16384 / channels / 16 * 16, 64));
    const int64_t pieces = (plane + piece - 1) / piece;
    const int64_t grain = std::max<int64_t>(kGrain / (piece * channels), 1);
    at::parallel_for(0, input.size(0) * pieces, grain, [&](int64_t begin, int64_t end) {
      std::vector<uint8_t> scratch(static_cast<size_t>(piece * channels));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t image = i / pieces;
        const int64_t first = i % pieces * piece;
        move_pixels(in + image * channels * plane + first, plane, out + (image * plane + first) * channels,
                    std::min(piece, plane - first), channels, scratch.data());
      }
    });
  }

  // Images within a frame of the integer that stands for zero.
  void add_padded(Plan& plan, bool moves) const {
    const auto frame = spec_.ints("padding");  // top, left, bottom, right
    TORCH_CHECK(
        plan.sizes.size() == 4, "jitquant::quantize: the input has ", plan.sizes.size(),
        " dimensions and 4 are needed (batch, channels, height, width); call unsqueeze(0) for a batch "
        "of one");
    const int64_t height = plan.sizes[2];
    const int64_t width = plan.sizes[3];
    plan.sizes[2] += frame[0] + frame[2];
    plan.sizes[3] += frame[1] + frame[3];
    if (c10::multiply_integers(plan.sizes) == 0) {
      return;
    }
    plan.implementation = loops().name;
    plan.loop = [=, this, sizes = plan.sizes](Tensors given, void* out) {
      const auto* in = given[0].const_data_ptr<float>();
      const int64_t channels = sizes[1];
      const int64_t line = sizes[3] * channels;
      at::parallel_for(0, sizes[0] * sizes[2], std::max<int64_t>(kGrain / line, 1),
                       [&](int64_t begin, int64_t end) {
                         std::vector<uint8_t> scratch(static_cast<size_t>(width * channels));
                         for (int64_t i = begin; i < end; ++i) {
                           uint8_t* to = static_cast<uint8_t*>(out) + i * line;
                           const int64_t image = i / sizes[2];
                           const int64_t row = i % sizes[2] - frame[0];
                           std::memset(to, zero_point_, static_cast<size_t>(line));
                           if (row < 0 || row >= height) {
                             continue;
                           }
                           to += frame[1] * channels;
                           if (moves) {
                             move_pixels(in + (image * channels * height + row) * width, height * width, to,
                                         width, channels, scratch.data());
                           } else {
                             round(in + (image * height + row) * width * channels, to, width * channels);
                           }
                         }
                       });
    };
  }

  float inverse_scale_;
  int zero_point_;
  at::Tensor factors_;  // of each channel, with the inverse scale
};

JITQUANT_KERNEL(Quantize, "quantize");

class Dequantize final : public Kernel {
 public:
  explicit Dequantize(Spec given) : Kernel(std::move(given)) {}

 protected:
  void accept(Inputs& inputs) const override {
    require_bytes(inputs[0], name());
    inputs[0] = in_layout(inputs[0], layout_of(inputs[0]));
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
    dnnl::primitive_attr attributes = new_attributes();
    attributes.set_scales_mask(DNNL_ARG_SRC, 0);
    plan->constants.emplace_back(DNNL_ARG_ATTR_SCALES | DNNL_ARG_SRC,
                                 constant_memory(static_cast<float>(input.scale)));
    add_zero_point(*plan, attributes, DNNL_ARG_SRC, input.zero_point);
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
