// The volume of all pairs of pixels of two feature maps: output (i, j) is `scale` times the sum over channels of
// first(i) second(j), as FP16 [pixels of the first][pixels of the second].
//
// It is implicit_gemm.cuh with a 1x1 kernel over a frame of one row, its weights being the second map: chunks of the
// second map lie in memory as packed weights do, a row of chunks per plane. Sums are FP32 and rounded once.
//
// The channels that fill up the last chunk of the inputs must be zero.
//
// Not measured yet.
#pragma once

#include "implicit_gemm.cuh"

template <int PLANES, int TILES, int COLUMNS, int SLAB, int WARPS_M, int WARPS_N, int STAGES>
struct AllPairs {
  static constexpr int SLABS = (PLANES + SLAB - 1) / SLAB;
  using Gemm = ImplicitGemm<Half, 1, 1, 1, 1, 0, 0, 1, SLABS, SLAB, 1, TILES, COLUMNS, WARPS_M, WARPS_N, STAGES, LINEAR,
                            NOTHING, false, false, false>;
  static constexpr int BLOCK_ROWS = TILES * 16, BLOCK_COLUMNS = COLUMNS * 8;

  // Pixels of the second map in the place of weights; zeros beyond the map and beyond the last plane.
  static DEVICE void fetch_second(const char* second, int slab, int stage, int first_column, int columns) {
    char* to = shared_memory() + stage * Gemm::STAGE_BYTES + Gemm::INPUT_BYTES;
    for (int i = threadIdx.x; i < SLAB * BLOCK_COLUMNS; i += Gemm::THREADS) {
      const int plane = slab * SLAB + i / BLOCK_COLUMNS, column = first_column + i % BLOCK_COLUMNS;
      const bool inside = plane < PLANES && column < columns;
      const long long index = static_cast<long long>(plane) * columns + column;
      copy_chunk(to + i * 16, second + (inside ? index * 16 : 0), inside);
    }
  }

  static DEVICE void run(const char* first, const char* second, char* output, float scale, int rows, int columns) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int warp_m = warp / WARPS_N, warp_n = warp % WARPS_N;
    const int row0 = blockIdx.y * BLOCK_ROWS, column0 = blockIdx.x * BLOCK_COLUMNS;
    const Sources sources{{first}, {PLANES}, {0}};
    const Frame frame{1, rows, 1, rows};
    Gemm gemm;
#pragma unroll
    for (int m = 0; m < Gemm::MT; ++m)
#pragma unroll
      for (int n = 0; n < Gemm::NT; ++n)
#pragma unroll
        for (int part = 0; part < 4; ++part) gemm.sums[m][n][part] = 0.f;
    auto fetch = [&](int slab) {
      if (slab < SLABS) {
        Gemm::fetch_input(sources, frame, slab, slab % STAGES, 0, row0);
        fetch_second(second, slab, slab % STAGES, column0, columns);
      }
      copy_commit();
    };
#pragma unroll
    for (int slab = 0; slab < STAGES - 1; ++slab) fetch(slab);
#pragma unroll 1
    for (int slab = 0; slab < SLABS; ++slab) {
      copy_wait<STAGES - 2>();
      barrier(0, Gemm::THREADS);
      fetch(slab + STAGES - 1);
      gemm.multiply_stage(slab % STAGES, warp_m, warp_n, lane);
    }
    copy_wait<0>();
    const int group = lane / 4, quad = lane % 4;
    auto* volume = reinterpret_cast<unsigned short*>(output);
#pragma unroll
    for (int m = 0; m < Gemm::MT; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = row0 + (warp_m * Gemm::MT + m) * 16 + half * 8 + group;
        if (i >= rows) continue;
#pragma unroll
        for (int n = 0; n < Gemm::NT; ++n) {
          const int j = column0 + (warp_n * Gemm::NT + n) * 8 + quad * 2;
          const float low = gemm.sums[m][n][half * 2] * scale, high = gemm.sums[m][n][half * 2 + 1] * scale;
          unsigned short* to = volume + static_cast<long long>(i) * columns + j;
          if (columns % 2 == 0 && j + 1 < columns) {
            *reinterpret_cast<unsigned*>(to) = pack_halves(low, high);
          } else {
            if (j < columns) to[0] = float_to_half(low);
            if (j + 1 < columns) to[1] = float_to_half(high);
          }
        }
      }
  }
};
