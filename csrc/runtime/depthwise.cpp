#include "csrc/runtime/depthwise.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

namespace jitquant::runtime {

namespace {

class Depthwise {
 public:
  Depthwise(const Spec& spec, Window window, const LinearTail& tail, std::vector<int64_t> output)
      : window_(std::move(window)),
        output_(std::move(output)),
        size_(spec.tensors.at(0).sizes().slice(2).vec()),
        channels_(spec.tensors.at(0).size(0)),
        bounds_(tail.bounds),
        to_float_(!spec.has("output")) {
    const QParams input = *spec.qparams("input");
    const at::Tensor weight = spec.tensors.at(0).flatten(1);
    const at::Tensor factors =
        spec.tensors.at(1).to(at::kDouble).expand({channels_}) * (input.scale * tail.factor);
    const auto zero_point = static_cast<double>(input.zero_point);
    at::Tensor shifts = tail.shift - weight.to(at::kDouble).sum(1) * factors * zero_point;
    if (spec.tensors.size() > 2) {
      shifts = shifts + spec.tensors[2].to(at::kDouble) * tail.factor;
    }
    weights_ = weight.t().to(at::kFloat).contiguous();
    factors_ = factors.to(at::kFloat).contiguous();
    shifts_ = shifts.to(at::kFloat).contiguous();
    padding_ = at::full({channels_}, input.zero_point, at::kByte);
  }

  void operator()(Tensors given, void* out) const {
    const int64_t width = output_[4];
    const int64_t lines = output_[0] * output_[2] * output_[3];
    at::parallel_for(0, lines, std::max<int64_t>(kGrain / (width * channels_), 1),
                     [&](int64_t begin, int64_t end) {
                       std::vector<const uint8_t*> rows(static_cast<size_t>(size_[0] * size_[1]));
                       std::vector<const uint8_t*> pixels(rows.size() * static_cast<size_t>(size_[2]));
                       for (int64_t line = begin; line < end; ++line) {
                         find_rows(given[0], line, rows);
                         for (int64_t x = 0; x < width; ++x) {
                           find_pixels(rows, x, given[0].size(4), pixels);
                           weigh(pixels, (line * width + x) * channels_, out);
                         }
                       }
                     });
  }

 private:
  // Of the input, for a row of the output; null where they lie in the padding.
  void find_rows(const at::Tensor& input, int64_t line, std::vector<const uint8_t*>& rows) const {
    const int64_t depth = input.size(2);
    const int64_t height = input.size(3);
    const int64_t y = line % output_[3];
    const int64_t t = line / output_[3] % output_[2];
    const int64_t sample = line / output_[3] / output_[2];
    size_t next = 0;
    for (int64_t i = 0; i < size_[0]; ++i) {
      const int64_t from_t = place(0, t, i);
      for (int64_t j = 0; j < size_[1]; ++j) {
        const int64_t from_y = place(1, y, j);
        const bool inside = from_t >= 0 && from_t < depth && from_y >= 0 && from_y < height;
        const int64_t row = (sample * depth + from_t) * height + from_y;
        rows[next++] = inside ? input.const_data_ptr<uint8_t>() + row * input.size(4) * channels_ : nullptr;
      }
    }
  }

  void find_pixels(const std::vector<const uint8_t*>& rows, int64_t x, int64_t width,
                   std::vector<const uint8_t*>& pixels) const {
    const auto* padding = padding_.const_data_ptr<uint8_t>();
    size_t next = 0;
    for (const uint8_t* row : rows) {
      for (int64_t k = 0; k < size_[2]; ++k) {
        const int64_t from = place(2, x, k);
        const bool inside = row != nullptr && from >= 0 && from < width;
        pixels[next++] = inside ? row + from * channels_ : padding;
      }
    }
  }

  int64_t place(size_t axis, int64_t position, int64_t step) const {
    return position * window_.stride[axis] + step * window_.dilation[axis] - window_.before[axis];
  }

  void weigh(const std::vector<const uint8_t*>& pixels, int64_t at, void* out) const {
    const auto count = static_cast<int64_t>(pixels.size());
    const auto* weights = weights_.const_data_ptr<float>();
    const auto* factors = factors_.const_data_ptr<float>();
    const auto* shifts = shifts_.const_data_ptr<float>();
    if (to_float_) {
      loops().weigh_lines_to_float(pixels.data(), weights, static_cast<float*>(out) + at, count, channels_,
                                   factors, shifts, bounds_);
    } else {
      loops().weigh_lines(pixels.data(), weights, static_cast<uint8_t*>(out) + at, count, channels_, factors,
                          shifts, bounds_);
    }
  }

  Window window_;
  std::vector<int64_t> output_;
  std::vector<int64_t> size_;
  int64_t channels_;
  Bounds bounds_;
  bool to_float_;
  at::Tensor weights_;  // [place in the window][channel]
  at::Tensor factors_;
  at::Tensor shifts_;
  at::Tensor padding_;
};

}  // namespace

std::function<void(Tensors, void*)> depthwise3d(const Spec& spec, const Window& window,
                                                const std::vector<int64_t>& output) {
  constexpr int64_t most_places = 500;
  const auto tail = linear_tail(spec);
  const at::Tensor& weight = spec.tensors.at(0);
  if (!tail || weight.numel() / weight.size(0) > most_places) {
    return nullptr;
  }
  return Depthwise(spec, window, *tail, output);
}

}  // namespace jitquant::runtime
