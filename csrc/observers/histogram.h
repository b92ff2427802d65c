// A histogram of fixed size that takes values of any range in one pass. Bins have a power of two as width and
// begin at multiples of it, so when the range grows whole bins merge, and no count is split or lost. The grid
// follows from the range alone: neither the order of the values nor how they were divided shows in the
// result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "csrc/observers/extremes.h"

namespace jitquant::observers {

// Bin i holds the values from (first + i) * width up to the next bin.
struct Grid {
  double width = 0x1p-100;
  int64_t first = 0;

  bool operator==(const Grid&) const = default;
};

class Histogram {
 public:
  explicit Histogram(int64_t slots) : counts_(static_cast<size_t>(slots)) {}
  Histogram(std::vector<double> counts, Grid grid, Extremes extremes)
      : counts_(std::move(counts)), grid_(grid), extremes_(extremes) {}

  // Exact zeros are counted apart. From what is NaN or infinite on, only the extremes are kept.
  void record(const float* values, int64_t count);
  void merge(const Histogram& other);

  const std::vector<double>& counts() const { return counts_; }
  const Grid& grid() const { return grid_; }
  const Extremes& extremes() const { return extremes_; }
  int64_t zeros() const { return zeros_; }

 private:
  bool covers_a_range() const;
  Grid fitting_grid(double least_width) const;
  void move_to(const Grid& grid);

  std::vector<double> counts_;
  Grid grid_;
  Extremes extremes_;
  int64_t zeros_ = 0;
};

}  // namespace jitquant::observers
