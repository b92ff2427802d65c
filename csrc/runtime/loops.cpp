#include "csrc/runtime/loops.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <immintrin.h>
#include <oneapi/dnnl/dnnl.hpp>

// GCC 12 takes registers that its own headers leave undefined on purpose for mistakes (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace jitquant::runtime {

namespace {

void look_up_one_by_one(const uint8_t* in, uint8_t* out, int64_t count, const uint8_t* table) {
  for (int64_t i = 0; i < count; ++i) {
    out[i] = table[in[i]];
  }
}

void interleave3_one_by_one(const uint8_t* planes, int64_t plane, uint8_t* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t channel = 0; channel < 3; ++channel) {
      out[3 * i + channel] = planes[channel * plane + i];
    }
  }
}

namespace plain {

constexpr const char* kName = "loop:sse2";
using Bytes = uint8_t __attribute__((vector_size(16)));

struct Numbers {
  float value[16];
};

template <typename Function>
inline Numbers each(Function function) {
  Numbers result;
  for (int i = 0; i < 16; ++i) {
    result.value[i] = function(i);
  }
  return result;
}

inline Numbers spread(float x) {
  return each([&](int) { return x; });
}
inline Numbers load(const float* from, int n) {
  return each([&](int i) { return i < n ? from[i] : 0.0F; });
}
inline Numbers load(const uint8_t* from, int n) {
  return each([&](int i) { return i < n ? static_cast<float>(from[i]) : 0.0F; });
}
inline Numbers load(const int32_t* from) {
  return each([&](int i) { return static_cast<float>(from[i]); });
}
inline Numbers times(const Numbers& x, const Numbers& y) {
  return each([&](int i) { return x.value[i] * y.value[i]; });
}
inline Numbers over(const Numbers& x, const Numbers& y) {
  return each([&](int i) { return x.value[i] / y.value[i]; });
}
inline Numbers times_plus(const Numbers& x, const Numbers& y, const Numbers& z) {
  return each([&](int i) { return x.value[i] * y.value[i] + z.value[i]; });
}
inline Numbers within(const Numbers& x, const Numbers& low, const Numbers& high) {
  return each([&](int i) {
    const float raised = x.value[i] > low.value[i] ? x.value[i] : low.value[i];
    return raised < high.value[i] ? raised : high.value[i];
  });
}
inline Numbers higher(const Numbers& x, const Numbers& y) {
  return each([&](int i) { return x.value[i] > y.value[i] ? x.value[i] : y.value[i]; });
}
inline Numbers lower(const Numbers& x, const Numbers& y) {
  return each([&](int i) { return x.value[i] < y.value[i] ? x.value[i] : y.value[i]; });
}
inline float largest(const Numbers& x) {
  float found = x.value[0];
  for (const float value : x.value) {
    found = value > found ? value : found;
  }
  return found;
}
inline float total(const Numbers& x) {
  float sum = 0;
  for (const float value : x.value) {
    sum += value;
  }
  return sum;
}
inline Numbers rounded(const Numbers& x) {
  return each([&](int i) { return std::nearbyint(x.value[i]); });
}
inline Numbers times_power_of_two(const Numbers& x, const Numbers& power) {
  return each([&](int i) {
    return std::isnan(power.value[i]) ? power.value[i]
                                      : std::ldexp(x.value[i], static_cast<int>(power.value[i]));
  });
}
inline void store(const Numbers& x, float* to, int n) {
  std::memcpy(to, x.value, static_cast<size_t>(n) * sizeof(float));
}
// Rounds, then adds whole numbers.
inline void store(const Numbers& x, const Numbers& added, uint8_t* to, int n) {
  for (int i = 0; i < n; ++i) {
    to[i] = static_cast<uint8_t>(std::nearbyint(x.value[i]) + added.value[i]);
  }
}
inline void store(const Numbers& x, uint8_t* to, int n) { store(x, Numbers{}, to, n); }

constexpr auto look_up = look_up_one_by_one;
constexpr auto interleave3 = interleave3_one_by_one;

#include "csrc/runtime/loops_body.h"

}  // namespace plain

#pragma GCC push_options
#pragma GCC target("avx2,fma")

namespace avx2 {

constexpr const char* kName = "loop:avx2";
using Bytes = uint8_t __attribute__((vector_size(32)));

struct Numbers {
  __m256 low;
  __m256 high;
};

inline Numbers spread(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Numbers load(const float* from, int n) {
  if (n == 16) {
    return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
  }
  float copy[16] = {};
  std::memcpy(copy, from, static_cast<size_t>(n) * sizeof(float));
  return {_mm256_loadu_ps(copy), _mm256_loadu_ps(copy + 8)};
}
inline Numbers load(const uint8_t* from, int n) {
  uint8_t copy[16] = {};
  if (n < 16) {
    std::memcpy(copy, from, static_cast<size_t>(n));
    from = copy;
  }
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
inline Numbers load(const int32_t* from) {
  const auto* at = reinterpret_cast<const __m256i*>(from);
  return {_mm256_cvtepi32_ps(_mm256_loadu_si256(at)), _mm256_cvtepi32_ps(_mm256_loadu_si256(at + 1))};
}
inline Numbers times(Numbers x, Numbers y) {
  return {_mm256_mul_ps(x.low, y.low), _mm256_mul_ps(x.high, y.high)};
}
inline Numbers over(Numbers x, Numbers y) {
  return {_mm256_div_ps(x.low, y.low), _mm256_div_ps(x.high, y.high)};
}
inline Numbers times_plus(Numbers x, Numbers y, Numbers z) {
  return {_mm256_fmadd_ps(x.low, y.low, z.low), _mm256_fmadd_ps(x.high, y.high, z.high)};
}
// The instruction gives its second operand where the first is NaN.
inline Numbers within(Numbers x, Numbers low, Numbers high) {
  return {_mm256_min_ps(_mm256_max_ps(x.low, low.low), high.low),
          _mm256_min_ps(_mm256_max_ps(x.high, low.high), high.high)};
}
inline Numbers higher(Numbers x, Numbers y) {
  return {_mm256_max_ps(x.low, y.low), _mm256_max_ps(x.high, y.high)};
}
inline Numbers lower(Numbers x, Numbers y) {
  return {_mm256_min_ps(x.low, y.low), _mm256_min_ps(x.high, y.high)};
}
inline float largest(Numbers x) {
  const __m256 eight = _mm256_max_ps(x.low, x.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline float total(Numbers x) {
  const __m256 eight = _mm256_add_ps(x.low, x.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline Numbers rounded(Numbers x) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.low, kNearest), _mm256_round_ps(x.high, kNearest)};
}
// The power is added to the exponent.
inline __m256 times_power_of_two(__m256 x, __m256 power) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(power), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), exponent));
}
inline Numbers times_power_of_two(Numbers x, Numbers power) {
  return {times_power_of_two(x.low, power.low), times_power_of_two(x.high, power.high)};
}
inline void store(Numbers x, float* to, int n) {
  if (n == 16) {
    _mm256_storeu_ps(to, x.low);
    _mm256_storeu_ps(to + 8, x.high);
    return;
  }
  float copy[16];
  _mm256_storeu_ps(copy, x.low);
  _mm256_storeu_ps(copy + 8, x.high);
  std::memcpy(to, copy, static_cast<size_t>(n) * sizeof(float));
}
inline void store(Numbers x, Numbers added, uint8_t* to, int n) {
  const __m256i low = _mm256_add_epi32(_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(added.low));
  const __m256i high = _mm256_add_epi32(_mm256_cvtps_epi32(x.high), _mm256_cvtps_epi32(added.high));
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0b11011000);
  const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  if (n == 16) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    return;
  }
  uint8_t copy[16];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(copy), bytes);
  std::memcpy(to, copy, static_cast<size_t>(n));
}
inline void store(Numbers x, uint8_t* to, int n) { store(x, spread(0), to, n); }

constexpr auto look_up = look_up_one_by_one;

// Where the bytes of one plane go to among 48, as indices for a shuffle of 16 bytes: -1 leaves a zero.
inline __m128i places(int part, int channel) {
  alignas(16) int8_t index[16];
  for (int i = 0; i < 16; ++i) {
    const int at = part * 16 + i;
    index[i] = static_cast<int8_t>(at % 3 == channel ? at / 3 : -1);
  }
  return _mm_load_si128(reinterpret_cast<const __m128i*>(index));
}

void interleave3(const uint8_t* planes, int64_t plane, uint8_t* out, int64_t count) {
  __m128i index[3][3];
  for (int part = 0; part < 3; ++part) {
    for (int channel = 0; channel < 3; ++channel) {
      index[part][channel] = places(part, channel);
    }
  }
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const uint8_t* at = planes + i;
    const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + plane));
    const __m128i c = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 2 * plane));
    for (int part = 0; part < 3; ++part) {
      const __m128i mixed =
          _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(a, index[part][0]), _mm_shuffle_epi8(b, index[part][1])),
                       _mm_shuffle_epi8(c, index[part][2]));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * i + 16 * part), mixed);
    }
  }
  interleave3_one_by_one(planes + i, plane, out + 3 * i, count - i);
}

#include "csrc/runtime/loops_body.h"

}  // namespace avx2

#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")

namespace avx512 {

constexpr const char* kName = "loop:avx512";
using Bytes = uint8_t __attribute__((vector_size(64)));

using Numbers = __m512;

inline __mmask16 first(int n) { return static_cast<__mmask16>((1U << n) - 1); }
inline Numbers spread(float x) { return _mm512_set1_ps(x); }
inline Numbers load(const float* from, int n) { return _mm512_maskz_loadu_ps(first(n), from); }
inline Numbers load(const uint8_t* from, int n) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(n), from)));
}
inline Numbers load(const int32_t* from) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(from)); }
inline Numbers times(Numbers x, Numbers y) { return _mm512_mul_ps(x, y); }
inline Numbers over(Numbers x, Numbers y) { return _mm512_div_ps(x, y); }
inline Numbers times_plus(Numbers x, Numbers y, Numbers z) { return _mm512_fmadd_ps(x, y, z); }
inline Numbers within(Numbers x, Numbers low, Numbers high) {
  return _mm512_min_ps(_mm512_max_ps(x, low), high);
}
inline Numbers higher(Numbers x, Numbers y) { return _mm512_max_ps(x, y); }
inline Numbers lower(Numbers x, Numbers y) { return _mm512_min_ps(x, y); }
inline float largest(Numbers x) { return _mm512_reduce_max_ps(x); }
inline float total(Numbers x) { return _mm512_reduce_add_ps(x); }
inline Numbers rounded(Numbers x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT); }
inline Numbers times_power_of_two(Numbers x, Numbers power) { return _mm512_scalef_ps(x, power); }
inline void store(Numbers x, float* to, int n) { _mm512_mask_storeu_ps(to, first(n), x); }
inline void store(Numbers x, uint8_t* to, int n) {
  _mm_mask_storeu_epi8(to, first(n), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}
inline void store(Numbers x, Numbers added, uint8_t* to, int n) {
  const __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_cvtps_epi32(added));
  _mm_mask_storeu_epi8(to, first(n), _mm512_cvtepi32_epi8(whole));
}

constexpr auto look_up = look_up_one_by_one;
constexpr auto interleave3 = avx2::interleave3;

#include "csrc/runtime/loops_body.h"

}  // namespace avx512

#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512vbmi")

// Four registers hold the table, and an instruction looks 64 bytes up in two of them.
void look_up_vbmi(const uint8_t* in, uint8_t* out, int64_t count, const uint8_t* table) {
  const __m512i t0 = _mm512_loadu_si512(table);
  const __m512i t1 = _mm512_loadu_si512(table + 64);
  const __m512i t2 = _mm512_loadu_si512(table + 128);
  const __m512i t3 = _mm512_loadu_si512(table + 192);
  for (int64_t i = 0; i < count; i += 64) {
    const int64_t left = count - i;
    const __mmask64 mask = left >= 64 ? ~0ULL : (1ULL << left) - 1;
    const __m512i bytes = _mm512_maskz_loadu_epi8(mask, in + i);
    const __m512i lower = _mm512_permutex2var_epi8(t0, bytes, t1);
    const __m512i upper = _mm512_permutex2var_epi8(t2, bytes, t3);
    _mm512_mask_storeu_epi8(out + i, mask, _mm512_mask_blend_epi8(_mm512_movepi8_mask(bytes), lower, upper));
  }
}

#pragma GCC pop_options

Loops choose() {
  using dnnl::cpu_isa;
  const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  auto has = [&](cpu_isa asked) {
    return (isa & static_cast<unsigned>(asked)) == static_cast<unsigned>(asked);
  };
  Loops chosen = has(cpu_isa::avx512_core) ? avx512::all : has(cpu_isa::avx2) ? avx2::all : plain::all;
  if (has(cpu_isa::avx512_core) && __builtin_cpu_supports("avx512vbmi")) {
    chosen.look_up = look_up_vbmi;
  }
  return chosen;
}

}  // namespace

const Loops& loops() {
  static const Loops chosen = choose();
  return chosen;
}

// SSE2, which every x86-64 processor has.
void interleave2(const uint8_t* a, const uint8_t* b, uint8_t* out, int64_t count) {
  auto sixteen = [&](int64_t i) {
    const __m128i left = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i));
    const __m128i right = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + i));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i), _mm_unpacklo_epi8(left, right));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i + 16), _mm_unpackhi_epi8(left, right));
  };
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    sixteen(i);
  }
  if (i < count && count >= 16) {
    sixteen(count - 16);  // some of it a second time
    return;
  }
  for (; i < count; ++i) {
    out[2 * i] = a[i];
    out[2 * i + 1] = b[i];
  }
}

void make_signed(const uint8_t* in, int8_t* out, int64_t count) {
  const __m128i top = _mm_set1_epi8(static_cast<char>(0x80));
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm_xor_si128(bytes, top));
  }
  for (; i < count; ++i) {
    out[i] = static_cast<int8_t>(in[i] ^ 0x80);
  }
}

void transpose(const uint8_t* from, int64_t step, uint8_t* to, int64_t rows, int64_t columns) {
  auto square = [&](int64_t row, int64_t column) {
    __m128i lines[16];
    for (int i = 0; i < 16; ++i) {
      lines[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + (row + i) * step + column));
    }
    // Lines are shuffled like cards: after four times, rows are columns.
    for (int round = 0; round < 4; ++round) {
      __m128i next[16];
      for (int i = 0; i < 8; ++i) {
        next[2 * i] = _mm_unpacklo_epi8(lines[i], lines[i + 8]);
        next[2 * i + 1] = _mm_unpackhi_epi8(lines[i], lines[i + 8]);
      }
      std::memcpy(lines, next, sizeof(lines));
    }
    for (int i = 0; i < 16; ++i) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (column + i) * rows + row), lines[i]);
    }
  };
  if (rows >= 16 && columns >= 16) {
    // What is left at the ends is done a second time.
    for (int64_t column = 0; column < columns; column += 16) {
      for (int64_t row = 0; row < rows; row += 16) {
        square(std::min(row, rows - 16), std::min(column, columns - 16));
      }
    }
    return;
  }
  for (int64_t column = 0; column < columns; ++column) {
    for (int64_t row = 0; row < rows; ++row) {
      to[column * rows + row] = from[row * step + column];
    }
  }
}

}  // namespace jitquant::runtime
