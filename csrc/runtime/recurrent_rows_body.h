// The loop of recurrent_rows.h, in terms of `Sums`: sixteen integers in the registers of one instruction set.
// recurrent_rows.cpp includes this once for each set, within a namespace of its own.

// Sums that do not wait for one another: an instruction takes some cycles, and two begin in each.
template <int kGates>
void multiply_row(const uint8_t* in, const int8_t* packed, int64_t fours, int64_t begin, int64_t end,
                  int32_t* sums) {
  constexpr int kChains = kGates == 1 ? 4 : kGates <= kMostSums / 2 ? 2 : 1;
  for (int64_t block = begin; block < end; ++block) {
    const int8_t* weights = packed + block * fours * kGates * 64;
    Sums chains[kChains][kGates] = {};
    for (int64_t four = 0; four < fours; four += kChains) {
#pragma GCC unroll 4
      for (int chain = 0; chain < kChains; ++chain) {
        const Four numbers = spread(in + (four + chain) * 4);
#pragma GCC unroll 4
        for (int gate = 0; gate < kGates; ++gate, weights += 64) {
          add_products(chains[chain][gate], numbers, weights);
        }
      }
    }
#pragma GCC unroll 4
    for (int gate = 0; gate < kGates; ++gate) {
#pragma GCC unroll 4
      for (int chain = 1; chain < kChains; ++chain) {
        chains[0][gate] = joined(chains[0][gate], chains[chain][gate]);
      }
      store(chains[0][gate], sums + (block * kGates + gate) * 16);
    }
  }
}
