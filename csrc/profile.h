// What each op of a method costs: clocks are put around the ops of a copy of its graph, which libtorch's own
// interpreter then runs, so that branches, loops and calls are what they are without a profile.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <torch/csrc/jit/api/module.h>

namespace jitquant {

struct OpProfile {
  std::string op;
  std::string path;           // of the module whose code it was
  std::string line;           // in the user's source
  int64_t calls = 0;          // in one run of the method
  double time_us = 0;         // of all its calls in one run
  std::string kernel;         // the implementation that ran, where the op says it
  int64_t multiply_adds = 0;  // of one call, where the op says it
};

struct MethodProfile {
  std::vector<OpProfile> ops;  // in program order
  double between_us = 0;       // what a run takes beside its ops
  double unprofiled_us = 0;    // a run without clocks
};

// Runs forward, without gradients, on inputs that begin with the module itself. All times are medians over
// the runs. The module has to be a copy whose calls are inlined; what its forward writes to, it writes to.
MethodProfile profile_forward(const torch::jit::Module& module, const torch::jit::Stack& inputs,
                              int64_t runs);

}  // namespace jitquant
