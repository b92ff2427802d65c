// Runs a quantized model with libtorch alone: no Python, and nothing of jitquant.
//
//     run_quantized model.pt [sizes of the input, 1 3 224 224 if left out]
//     run_quantized --ops libjitquant_runtime.so model.pt [sizes]
//
// The second is for a file of the native target; linking the library (JITQUANT_OPS in CMakeLists.txt) is the
// other way to have its ops.
//
// Prints the first outputs with enough digits to tell any two floats apart, and the sum of all of them.
// compare.py does the same in Python and compares.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include <dlfcn.h>
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

// Loading the library registers its ops. It is not unloaded: models hold on to them.
void load_ops(const char* library) {
  if (dlopen(library, RTLD_NOW | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
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
  const bool has_ops = argc > 2 && std::string(argv[1]) == "--ops";
  const int first = has_ops ? 3 : 1;
  if (argc <= first) {
    std::fprintf(stderr, "usage: %s [--ops libjitquant_runtime.so] model.pt [sizes of the input]\n", argv[0]);
    return 2;
  }
  try {
    if (has_ops) load_ops(argv[2]);
    run(argv[first], parse_sizes(argc - first - 1, argv + first + 1));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
