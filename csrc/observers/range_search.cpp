#include "csrc/observers/range_search.h"

namespace jitquant::observers {

namespace {

constexpr int kCoarse = 64;  // from the whole range down to 2^-12 of it
constexpr int kFine = 33;    // one coarse step to either side

std::vector<double> coarse_factors() {
  std::vector<double> factors;
  for (int i = 0; i < kCoarse; ++i) {
    factors.push_back(std::exp2(-12.0 * i / (kCoarse - 1)));
  }
  factors.push_back(0);
  return factors;
}

std::vector<double> fine_factors() {
  std::vector<double> factors;
  for (int i = 0; i < kFine; ++i) {
    factors.push_back(std::exp2(12.0 / (kCoarse - 1) * (2.0 * i / (kFine - 1) - 1)));
  }
  return factors;
}

// Each end that the factors give, without those that repeat the one before.
std::vector<double> ends(double end, double limit, const std::vector<double>& factors) {
  std::vector<double> found;
  for (const double factor : factors) {
    const double shrunken = end * factor;
    const double candidate = limit < 0 ? std::max(shrunken, limit) : std::min(shrunken, limit);
    if (found.empty() || candidate != found.back()) {
      found.push_back(candidate);
    }
  }
  return found;
}

}  // namespace

ExpectedError::ExpectedError(const double* counts, int64_t slots, const Grid& grid)
    : bins_per_unit_(1 / grid.width),
      first_middle_(static_cast<double>(grid.first) + 0.5),
      slots_(static_cast<double>(slots)),
      sums_(static_cast<size_t>(slots) + 1) {
  Moments sum;
  for (int64_t i = 0; i < slots; ++i) {
    const double middle = (static_cast<double>(grid.first + i) + 0.5) * grid.width;
    sum.count += counts[i];
    sum.first += counts[i] * middle;
    sum.second += counts[i] * middle * middle;
    sums_[static_cast<size_t>(i) + 1] = sum;
  }
}

double ExpectedError::operator()(const Quantizer& quantizer, const IntegerRange& range) const {
  const double step = quantizer.scale;
  const double low = static_cast<double>(range.quant_min - quantizer.zero_point) * step;
  const double high = static_cast<double>(range.quant_max - quantizer.zero_point) * step;
  const Moments& under = below(low);
  const Moments& zero_begin = below(std::max(-step / 2, low));
  const Moments& zero_end = below(std::min(step / 2, high));
  const Moments& inside = below(high);
  const double rounded_to_zero = zero_end.second - zero_begin.second;
  const double rounded = (inside.count - under.count - zero_end.count + zero_begin.count) * step * step / 12;
  return clipped_below(low) + clipped_above(high) + rounded_to_zero + rounded;
}

double ExpectedError::clipped_below(double low) const {
  const Moments& under = below(low);
  return under.second - 2 * low * under.first + low * low * under.count;
}

double ExpectedError::clipped_above(double high) const {
  const Moments& inside = below(high);
  const Moments& all = sums_.back();
  return (all.second - inside.second) - 2 * high * (all.first - inside.first) +
         high * high * (all.count - inside.count);
}

const ExpectedError::Moments& ExpectedError::below(double bound) const {
  // In this order NaN becomes 0.
  const double place = std::min(slots_, std::max(0.0, bound * bins_per_unit_ - first_middle_));
  auto index = static_cast<int32_t>(place);
  index += static_cast<int32_t>(index < place);  // rounds up, without a call
  return sums_[static_cast<size_t>(index)];
}

Range least_error_range(const ExpectedError& error, Range whole, const IntegerRange& range) {
  static const std::vector<double> coarse = coarse_factors();
  static const std::vector<double> fine = fine_factors();
  // Rounding the zero point moves an end by less than a step. Ranges may be wider where the smallest scale
  // makes them so, and symmetric ones by any amount.
  const auto steps = static_cast<double>(range.quant_max - range.quant_min);
  const double step = (whole.high - whole.low) / steps;
  const double least_width = range.symmetric ? std::numeric_limits<float>::max() : range.eps * steps;

  Range best = whole;
  for (const auto* factors : {&coarse, &fine}) {
    const std::vector<double> lows = ends(best.low, whole.low, *factors);
    const std::vector<double> highs = ends(best.high, whole.high, *factors);
    std::vector<double> clipped;  // at the least, above each of the highs
    for (const double high : highs) {
      clipped.push_back(error.clipped_above(std::max(high, least_width) + step));
    }
    double least = std::numeric_limits<double>::infinity();
    for (const double low : lows) {
      const double clipped_low = error.clipped_below(std::min(low, -least_width) - step);
      for (size_t i = 0; i < highs.size(); ++i) {
        if (clipped_low + clipped[i] > least) {
          continue;
        }
        const double expected = error(choose_quantizer(low, highs[i], range), range);
        if (expected < least) {
          least = expected;
          best = {low, highs[i]};
        }
      }
    }
  }
  return best;
}

}  // namespace jitquant::observers
