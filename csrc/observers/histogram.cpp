#include "csrc/observers/histogram.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "csrc/observers/vectorized.h"

namespace jitquant::observers {

namespace {

constexpr int32_t kZeroSlots = 16;

}  // namespace

// Writes the bin of each value, and for a zero one of kZeroSlots slots behind the bins: half of what a relu
// gives would wait for one counter otherwise. Returns how many zeros there were.
JITQUANT_VECTORIZED int64_t find_bins(const float* values, int32_t count, float per_bin, int32_t first,
                                      int32_t slots, int32_t* bins) {
  int32_t zeros = 0;
  for (int32_t i = 0; i < count; ++i) {
    const float value = values[i];
    const float scaled = value * per_bin;
    int32_t bin = static_cast<int32_t>(scaled);
    // Rounds down. A product so small that it became zero keeps its sign.
    bin -= static_cast<int32_t>(static_cast<float>(bin) > scaled) |
           (static_cast<int32_t>(bin == 0) & static_cast<int32_t>(value < 0));
    bin -= first;
    bin = bin < 0 ? 0 : bin;
    bin = bin < slots ? bin : slots - 1;
    bins[i] = value == 0 ? slots + i % kZeroSlots : bin;
    zeros += static_cast<int32_t>(value == 0);
  }
  return zeros;
}

JITQUANT_VECTORIZED void add_tables(const uint16_t* tables, int64_t stride, int64_t slots, double* counts) {
  for (int64_t i = 0; i < slots; ++i) {
    const int32_t sum = tables[i] + tables[i + stride] + tables[i + 2 * stride] + tables[i + 3 * stride];
    counts[i] += sum;
  }
}

namespace {

constexpr int64_t kTables = 4;
constexpr int64_t kBlock = 1 << 14;  // stays in the second-level cache between its two readings
constexpr int64_t kPart = 1 << 10;   // as many bins are found before they are counted
// What the tables can hold before another block. They have 16 bits, which all fit into the first-level cache.
constexpr int64_t kMostPending = kTables * (65535 - kPart) - kBlock;

int64_t floor_div(double value, double width) { return static_cast<int64_t>(std::floor(value / width)); }

// Adds each bin's count to the bin of the wider grid in which it lies.
void pour(const std::vector<double>& counts, const Grid& from, std::vector<double>& into, const Grid& grid) {
  const int shift = std::min(std::ilogb(grid.width) - std::ilogb(from.width), 62);
  const auto last = static_cast<int64_t>(into.size()) - 1;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] != 0) {
      const int64_t bin = ((from.first + static_cast<int64_t>(i)) >> shift) - grid.first;
      into[static_cast<size_t>(std::clamp<int64_t>(bin, 0, last))] += counts[i];
    }
  }
}

// Counts in small integers, in turn in each of several tables: two equal values in a row would else wait for
// each other.
class Counter {
 public:
  explicit Counter(int64_t slots)
      : slots_(slots), stride_(slots + kZeroSlots), tables_(static_cast<size_t>(kTables * stride_)) {}

  int64_t count(const float* values, int64_t count, const Grid& grid) {
    int64_t zeros = 0;
    const auto per_bin = static_cast<float>(1 / grid.width);
    uint16_t* table = tables_.data();
    std::array<int32_t, kPart> bins;
    for (int64_t begin = 0; begin < count; begin += kPart) {
      const int64_t size = std::min(kPart, count - begin);
      zeros += find_bins(values + begin, static_cast<int32_t>(size), per_bin,
                         static_cast<int32_t>(grid.first), static_cast<int32_t>(slots_), bins.data());
      int64_t i = 0;
      for (; i + kTables <= size; i += kTables) {
        ++table[bins[i]];
        ++table[bins[i + 1] + stride_];
        ++table[bins[i + 2] + 2 * stride_];
        ++table[bins[i + 3] + 3 * stride_];
      }
      for (; i < size; ++i) {
        ++table[bins[i]];
      }
    }
    pending_ += count;
    return zeros;
  }

  int64_t pending() const { return pending_; }

  void empty_into(std::vector<double>& counts) {
    if (pending_ != 0) {
      add_tables(tables_.data(), stride_, slots_, counts.data());
      std::fill(tables_.begin(), tables_.end(), 0);
      pending_ = 0;
    }
  }

 private:
  int64_t slots_;
  int64_t stride_;
  std::vector<uint16_t> tables_;
  int64_t pending_ = 0;
};

}  // namespace

void Histogram::record(const float* values, int64_t count) {
  Counter counter(static_cast<int64_t>(counts_.size()));
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t size = std::min(kBlock, count - begin);
    extremes_.include(extremes_of(values + begin, size));
    if (extremes_.low == 0 && extremes_.high == 0) {
      zeros_ += size;
    }
    if (!covers_a_range()) {
      continue;
    }
    const Grid grid = fitting_grid(grid_.width);
    if (grid != grid_ || counter.pending() > kMostPending) {
      counter.empty_into(counts_);
      move_to(grid);
    }
    zeros_ += counter.count(values + begin, size, grid_);
  }
  counter.empty_into(counts_);
}

void Histogram::merge(const Histogram& other) {
  extremes_.include(other.extremes_);
  zeros_ += other.zeros_;
  if (covers_a_range()) {
    const Grid grid = fitting_grid(other.grid_.width);
    move_to(grid);
    pour(other.counts_, other.grid_, counts_, grid_);
  }
}

bool Histogram::covers_a_range() const {
  return extremes_.finite() && std::min(extremes_.low, 0.0F) < std::max(extremes_.high, 0.0F);
}

Grid Histogram::fitting_grid(double least_width) const {
  const double low = std::min(extremes_.low, 0.0F);
  const double high = std::max(extremes_.high, 0.0F);
  const auto slots = static_cast<int64_t>(counts_.size());
  int exponent = 0;
  std::frexp((high - low) / static_cast<double>(slots), &exponent);
  double width = std::max({grid_.width, least_width, std::ldexp(1.0, exponent - 1)});
  while (floor_div(high, width) - floor_div(low, width) >= slots) {
    width *= 2;
  }
  return {width, floor_div(low, width)};
}

void Histogram::move_to(const Grid& grid) {
  if (grid != grid_) {
    std::vector<double> counts(counts_.size());
    pour(counts_, grid_, counts, grid);
    counts_ = std::move(counts);
    grid_ = grid;
  }
}

}  // namespace jitquant::observers
