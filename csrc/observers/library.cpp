// The ops that observers call, as libtorch sees them. None changes its arguments.
#include <cmath>
#include <mutex>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "csrc/observers/extremes.h"
#include "csrc/observers/histogram.h"
#include "csrc/observers/quantizer.h"
#include "csrc/observers/range_search.h"

namespace jitquant::observers {

namespace {

using at::Tensor;
using TensorPair = std::tuple<Tensor, Tensor>;

constexpr int64_t kGrain = 1 << 17;  // fewer values than that are read sooner than another thread is woken

// The values without gaps, in whatever order.
Tensor without_gaps(const Tensor& values, const char* op) {
  TORCH_CHECK(values.scalar_type() == at::kFloat, "jitquant::", op, ": values are ", values.scalar_type(),
              "; give it float32");
  TORCH_CHECK(values.numel() != 0, "jitquant::", op, ": values are empty; record what has values only");
  return values.is_non_overlapping_and_dense() ? values : values.contiguous();
}

Tensor one_float(float value) { return at::full({1}, value, at::kFloat); }

TensorPair extremes(const Tensor& given) {
  const Tensor values = without_gaps(given, "extremes");
  const float* data = values.const_data_ptr<float>();
  Extremes all;
  std::mutex one_at_a_time;
  at::parallel_for(0, values.numel(), kGrain, [&](int64_t begin, int64_t end) {
    const Extremes part = extremes_of(data + begin, end - begin);
    const std::lock_guard lock(one_at_a_time);
    all.include(part);
  });
  return {one_float(all.low), one_float(all.high)};
}

TensorPair channel_extremes(const Tensor& values, int64_t axis) {
  TORCH_CHECK(axis >= 0 && axis < values.dim(), "jitquant::channel_extremes: there is no axis ", axis,
              " in a tensor of ", values.dim(), "; pass one that it has");
  TORCH_CHECK(values.scalar_type() == at::kFloat && values.numel() != 0,
              "jitquant::channel_extremes: values are empty or not float32; give it float32 values");
  const int64_t channels = values.size(axis);
  const int64_t size = values.numel() / channels;
  const Tensor rows = values.transpose(0, axis).contiguous();
  Tensor low = at::empty({channels}, values.options());
  Tensor high = at::empty({channels}, values.options());
  const float* data = rows.const_data_ptr<float>();
  auto* lows = low.mutable_data_ptr<float>();
  auto* highs = high.mutable_data_ptr<float>();
  at::parallel_for(0, channels, std::max<int64_t>(kGrain / size, 1), [&](int64_t begin, int64_t end) {
    for (int64_t channel = begin; channel < end; ++channel) {
      const Extremes found = extremes_of(data + channel * size, size);
      lows[channel] = found.low;
      highs[channel] = found.high;
    }
  });
  return {low, high};
}

const double* counts_of(const Tensor& histogram, const char* op) {
  TORCH_CHECK(histogram.scalar_type() == at::kDouble && histogram.dim() == 1 && histogram.numel() != 0 &&
                  histogram.is_contiguous(),
              "jitquant::", op, ": a histogram is a float64 vector without gaps; pass an observer's own");
  return histogram.const_data_ptr<double>();
}

Histogram to_histogram(const Tensor& histogram, double bin_width, int64_t first_bin, const Tensor& min_val,
                       const Tensor& max_val, const char* op) {
  const double* counts = counts_of(histogram, op);
  Extremes extremes;
  if (min_val.numel() != 0) {
    extremes = {min_val.item<float>(), max_val.item<float>()};
  }
  return {std::vector<double>(counts, counts + histogram.numel()), {bin_width, first_bin}, extremes};
}

// histogram, min_val, max_val, bin_width, first_bin, zeros
using State = std::tuple<Tensor, Tensor, Tensor, double, int64_t, int64_t>;

State to_state(const Histogram& histogram, int64_t zeros) {
  const auto& counts = histogram.counts();
  Tensor result = at::empty({static_cast<int64_t>(counts.size())}, at::kDouble);
  std::copy(counts.begin(), counts.end(), result.mutable_data_ptr<double>());
  return {result,
          one_float(histogram.extremes().low),
          one_float(histogram.extremes().high),
          histogram.grid().width,
          histogram.grid().first,
          zeros + histogram.zeros()};
}

State record_histogram(const Tensor& given, const Tensor& histogram, const Tensor& min_val,
                       const Tensor& max_val, double bin_width, int64_t first_bin, int64_t zeros) {
  const char* op = "record_histogram";
  const Tensor values = without_gaps(given, op);
  const float* data = values.const_data_ptr<float>();
  Histogram all = to_histogram(histogram, bin_width, first_bin, min_val, max_val, op);
  if (values.numel() <= kGrain || at::get_num_threads() == 1) {
    all.record(data, values.numel());
    return to_state(all, zeros);
  }
  std::mutex one_at_a_time;
  at::parallel_for(0, values.numel(), kGrain, [&](int64_t begin, int64_t end) {
    Histogram part(histogram.numel());
    part.record(data + begin, end - begin);
    const std::lock_guard lock(one_at_a_time);
    all.merge(part);
  });
  return to_state(all, zeros);
}

State merge_histograms(const Tensor& histogram, const Tensor& min_val, const Tensor& max_val,
                       double bin_width, int64_t first_bin, int64_t zeros, const Tensor& other_histogram,
                       const Tensor& other_min_val, const Tensor& other_max_val, double other_bin_width,
                       int64_t other_first_bin, int64_t other_zeros) {
  const char* op = "merge_histograms";
  TORCH_CHECK(histogram.sizes() == other_histogram.sizes(), "jitquant::", op, ": one histogram has ",
              histogram.numel(), " bins and the other ", other_histogram.numel(),
              "; merge what observers of the same settings recorded");
  Histogram all = to_histogram(histogram, bin_width, first_bin, min_val, max_val, op);
  all.merge(
      to_histogram(other_histogram, other_bin_width, other_first_bin, other_min_val, other_max_val, op));
  return to_state(all, zeros + other_zeros);
}

TensorPair choose_qparams(const Tensor& low, const Tensor& high, int64_t quant_min, int64_t quant_max,
                          bool symmetric, double eps) {
  TORCH_CHECK(low.sizes() == high.sizes() && low.scalar_type() == high.scalar_type(),
              "jitquant::choose_qparams: low and high differ in shape or dtype; pass two of a kind");
  const IntegerRange range{quant_min, quant_max, symmetric, eps};
  const Tensor lows = low.contiguous();
  const Tensor highs = high.contiguous();
  Tensor scale = at::empty(low.sizes(), at::kFloat);
  Tensor zero_point = at::empty(low.sizes(), at::kLong);
  auto* scales = scale.mutable_data_ptr<float>();
  auto* zero_points = zero_point.mutable_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES(low.scalar_type(), "jitquant::choose_qparams", [&] {
    const auto* low_data = lows.const_data_ptr<scalar_t>();
    const auto* high_data = highs.const_data_ptr<scalar_t>();
    for (int64_t i = 0; i < low.numel(); ++i) {
      const Quantizer found = choose_quantizer(low_data[i], high_data[i], range);
      scales[i] = found.scale;
      zero_points[i] = found.zero_point;
    }
  });
  return {scale, zero_point};
}

Tensor expected_error(const Tensor& histogram, double bin_width, int64_t first_bin, const Tensor& scale,
                      const Tensor& zero_point, int64_t quant_min, int64_t quant_max) {
  const ExpectedError error(counts_of(histogram, "expected_error"), histogram.numel(),
                            {bin_width, first_bin});
  const IntegerRange range{quant_min, quant_max, false, 0};
  Tensor result = at::empty(scale.sizes(), at::kDouble);
  for (int64_t i = 0; i < scale.numel(); ++i) {
    result.mutable_data_ptr<double>()[i] =
        error({scale[i].item<float>(), zero_point[i].item<int64_t>()}, range);
  }
  return result;
}

TensorPair find_least_error_range(const Tensor& histogram, double bin_width, int64_t first_bin,
                                  const Tensor& min_val, const Tensor& max_val, int64_t quant_min,
                                  int64_t quant_max, bool symmetric, double eps) {
  const ExpectedError error(counts_of(histogram, "least_error_range"), histogram.numel(),
                            {bin_width, first_bin});
  const Range whole{std::min(min_val.item<double>(), 0.0), std::max(max_val.item<double>(), 0.0)};
  TORCH_CHECK(std::isfinite(whole.low) && std::isfinite(whole.high),
              "jitquant::least_error_range: the recorded range is ", whole.low, " to ", whole.high,
              "; look for NaN and infinity in what was recorded");
  const Range found = least_error_range(error, whole, {quant_min, quant_max, symmetric, eps});
  return {at::full({1}, found.low, at::kDouble), at::full({1}, found.high, at::kDouble)};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(jitquant, library) {
  library.def("extremes(Tensor values) -> (Tensor low, Tensor high)");
  library.def("channel_extremes(Tensor values, int axis) -> (Tensor low, Tensor high)");
  library.def(
      "record_histogram(Tensor values, Tensor histogram, Tensor min_val, Tensor max_val, float bin_width, "
      "int first_bin, int zeros) -> (Tensor histogram, Tensor min_val, Tensor max_val, float bin_width, "
      "int first_bin, int zeros)");
  library.def(
      "merge_histograms(Tensor histogram, Tensor min_val, Tensor max_val, float bin_width, int first_bin, "
      "int zeros, Tensor other_histogram, Tensor other_min_val, Tensor other_max_val, float other_bin_width, "
      "int other_first_bin, int other_zeros) -> (Tensor histogram, Tensor min_val, Tensor max_val, "
      "float bin_width, int first_bin, int zeros)");
  library.def(
      "choose_qparams(Tensor low, Tensor high, int quant_min, int quant_max, bool symmetric, float eps) -> "
      "(Tensor scale, Tensor zero_point)");
  library.def(
      "expected_error(Tensor histogram, float bin_width, int first_bin, Tensor scale, Tensor zero_point, "
      "int quant_min, int quant_max) -> Tensor");
  library.def(
      "least_error_range(Tensor histogram, float bin_width, int first_bin, Tensor min_val, Tensor max_val, "
      "int quant_min, int quant_max, bool symmetric, float eps) -> (Tensor low, Tensor high)");
}

TORCH_LIBRARY_IMPL(jitquant, CPU, library) {
  library.impl("extremes", &extremes);
  library.impl("channel_extremes", &channel_extremes);
  library.impl("record_histogram", &record_histogram);
  library.impl("merge_histograms", &merge_histograms);
  library.impl("choose_qparams", &choose_qparams);
  library.impl("expected_error", &expected_error);
  library.impl("least_error_range", &find_least_error_range);
}

}  // namespace jitquant::observers
