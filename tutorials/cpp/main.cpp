// Runs a quantized model with libtorch alone: no Python, and nothing of jitquant.
//
//     run_quantized model.pt [sizes of the input, 1 3 224 224 if left out]
//
// Prints the first outputs with enough digits to tell any two floats apart, and the sum of all of them.
// compare.py does the same in Python and compares.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <torch/script.h>

namespace {

constexpr int64_t kShown = 5;

std::vector<int64_t> parse_sizes(int count, char** texts) {
  if (count == 0) return {1, 3, 224, 224};
  std::vector<int64_t> sizes;
  for (int i = 0; i < count; ++i) sizes.push_back(std::stoll(texts[i]));
  return sizes;
}

// Numbers from -1 to 1, so that whoever computes them gets the same ones.
at::Tensor make_input(const std::vector<int64_t>& sizes) {
  return torch::linspace(-1, 1, c10::multiply_integers(sizes)).reshape(sizes);
}

void run(const std::string& path, const std::vector<int64_t>& sizes) {
  c10::InferenceMode no_gradients;
  torch::jit::Module model = torch::jit::load(path);
  at::Tensor output = model.forward({make_input(sizes)}).toTensor().flatten();
  for (int64_t i = 0; i < std::min(kShown, output.numel()); ++i) {
    std::printf("%.9g\n", output[i].item<double>());
  }
  std::printf("sum %.17g\n", output.to(at::kDouble).sum().item<double>());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s model.pt [sizes of the input]\n", argv[0]);
    return 2;
  }
  try {
    run(argv[1], parse_sizes(argc - 2, argv + 2));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
