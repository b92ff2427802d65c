// The range to quantize a histogram with: the one with the least expected squared error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "csrc/observers/histogram.h"
#include "csrc/observers/quantizer.h"

namespace jitquant::observers {

// The summed squared error to expect from quantizing a histogram whose values lie in the middles of its bins.
//
// Clipped values are off by their distance to the nearer end; values that round to 0 by all they are; the
// rest by scale^2 / 12 on average, the variance of a uniform error (Bennett 1948, "Spectra of quantized
// signals"). Splitting the error into clipping and rounding follows Banner et al. 2018, arXiv:1810.05723.
//
// Sums of counts, of values and of squares up to each bin are made once, after which the error of a quantizer
// takes four places in them, however many bins there are.
class ExpectedError {
 public:
  ExpectedError(const double* counts, int64_t slots, const Grid& grid);
  double operator()(const Quantizer& quantizer, const IntegerRange& range) const;

  // The part of it that is left however fine the steps are.
  double clipped_below(double low) const;
  double clipped_above(double high) const;

 private:
  struct Moments {
    double count = 0;
    double first = 0;
    double second = 0;
  };

  // Of the bins whose middle lies below the bound.
  const Moments& below(double bound) const;

  double bins_per_unit_;
  double first_middle_;  // in bins, as the next
  double slots_;
  std::vector<Moments> sums_;
};

struct Range {
  double low;
  double high;
};

// Looked for among shrunken copies of the whole range, both ends apart, first coarsely and then around the
// best; an end at 0 stays at 0. Candidates that clip more than the best one errs are passed over.
Range least_error_range(const ExpectedError& error, Range whole, const IntegerRange& range);

}  // namespace jitquant::observers
