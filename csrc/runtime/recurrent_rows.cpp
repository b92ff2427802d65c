#include "csrc/runtime/recurrent_rows.h"

#include <cstring>

#include <immintrin.h>
#include <oneapi/dnnl/dnnl.hpp>

namespace jitquant::runtime {

namespace {

inline int as_integer(const uint8_t* bytes) {
  int four;
  std::memcpy(&four, bytes, sizeof(four));
  return four;
}

namespace plain {

constexpr int kMostSums = 4;

struct Sums {
  int32_t value[16];
};
using Four = const uint8_t*;

inline Four spread(const uint8_t* from) { return from; }
inline void add_products(Sums& sums, Four numbers, const int8_t* weights) {
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 4; ++j) {
      sums.value[i] += numbers[j] * weights[4 * i + j];
    }
  }
}
inline Sums joined(Sums x, const Sums& y) {
  for (int i = 0; i < 16; ++i) {
    x.value[i] += y.value[i];
  }
  return x;
}
inline void store(const Sums& sums, int32_t* to) { std::memcpy(to, sums.value, sizeof(sums.value)); }

#include "csrc/runtime/recurrent_rows_body.h"

}  // namespace plain

#pragma GCC push_options
#pragma GCC target("avx2")

namespace avx2 {

constexpr int kMostSums = 4;

struct Sums {
  __m256i low;
  __m256i high;
};

// Two products of 8 bits may be too large for the 16 bits that hold their sum: a number is twice its half,
// and one more where it is odd.
struct Four {
  __m256i halves;
  __m256i odd;
};

inline Four spread(const uint8_t* from) {
  const __m256i numbers = _mm256_set1_epi32(as_integer(from));
  return {_mm256_and_si256(_mm256_srli_epi16(numbers, 1), _mm256_set1_epi8(0x7F)),
          _mm256_and_si256(numbers, _mm256_set1_epi8(1))};
}
inline __m256i products(const Four& numbers, const int8_t* weights) {
  const __m256i line = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
  const __m256i halves = _mm256_madd_epi16(_mm256_maddubs_epi16(numbers.halves, line), _mm256_set1_epi16(2));
  return _mm256_add_epi32(halves,
                          _mm256_madd_epi16(_mm256_maddubs_epi16(numbers.odd, line), _mm256_set1_epi16(1)));
}
inline void add_products(Sums& sums, const Four& numbers, const int8_t* weights) {
  sums.low = _mm256_add_epi32(sums.low, products(numbers, weights));
  sums.high = _mm256_add_epi32(sums.high, products(numbers, weights + 32));
}
inline Sums joined(const Sums& x, const Sums& y) {
  return {_mm256_add_epi32(x.low, y.low), _mm256_add_epi32(x.high, y.high)};
}
inline void store(const Sums& sums, int32_t* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), sums.low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to) + 1, sums.high);
}

#include "csrc/runtime/recurrent_rows_body.h"

}  // namespace avx2

#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,avxvnni")

namespace avx_vnni {

using avx2::joined;
using avx2::kMostSums;
using avx2::store;
using avx2::Sums;
using Four = __m256i;

inline Four spread(const uint8_t* from) { return _mm256_set1_epi32(as_integer(from)); }
inline void add_products(Sums& sums, Four numbers, const int8_t* weights) {
  const auto* lines = reinterpret_cast<const __m256i*>(weights);
  sums.low = _mm256_dpbusd_avx_epi32(sums.low, numbers, _mm256_loadu_si256(lines));
  sums.high = _mm256_dpbusd_avx_epi32(sums.high, numbers, _mm256_loadu_si256(lines + 1));
}

#include "csrc/runtime/recurrent_rows_body.h"

}  // namespace avx_vnni

#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512vnni")

namespace avx512_vnni {

constexpr int kMostSums = 8;

using Sums = __m512i;
using Four = __m512i;

inline Four spread(const uint8_t* from) { return _mm512_set1_epi32(as_integer(from)); }
inline void add_products(Sums& sums, Four numbers, const int8_t* weights) {
  sums = _mm512_dpbusd_epi32(sums, numbers, _mm512_loadu_si512(weights));
}
inline Sums joined(Sums x, Sums y) { return _mm512_add_epi32(x, y); }
inline void store(Sums sums, int32_t* to) { _mm512_storeu_si512(to, sums); }

#include "csrc/runtime/recurrent_rows_body.h"

}  // namespace avx512_vnni

#pragma GCC pop_options

struct Choice {
  MultiplyRow one;
  MultiplyRow three;
  MultiplyRow four;
};

Choice choose() {
  using dnnl::cpu_isa;
  const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  auto has = [&](cpu_isa asked) {
    return (isa & static_cast<unsigned>(asked)) == static_cast<unsigned>(asked);
  };
  if (has(cpu_isa::avx512_core_vnni)) {
    return {avx512_vnni::multiply_row<1>, avx512_vnni::multiply_row<3>, avx512_vnni::multiply_row<4>};
  }
  if (has(cpu_isa::avx2_vnni)) {
    return {avx_vnni::multiply_row<1>, avx_vnni::multiply_row<3>, avx_vnni::multiply_row<4>};
  }
  if (has(cpu_isa::avx2)) {
    return {avx2::multiply_row<1>, avx2::multiply_row<3>, avx2::multiply_row<4>};
  }
  return {plain::multiply_row<1>, plain::multiply_row<3>, plain::multiply_row<4>};
}

}  // namespace

MultiplyRow multiply_row_for(int64_t gates) {
  static const Choice chosen = choose();
  return gates == 1 ? chosen.one : gates == 3 ? chosen.three : chosen.four;
}

}  // namespace jitquant::runtime
