// Local cost volume of two feature maps, and windows read from volumes of all pairs.
//
// Cost volume: output channel (dy + D)(2 D + 1) + (dx + D) of pixel (x, y) is the mean over channels of
// first(x, y) * second(x + dx, y + dy), zero where the second lies outside the frame.
//
// For one dy this is a band of the matrix product of a row of the first map with a row of the second, so it goes to the
// tensor cores: 16 pixels of the first against the 16 + 2 D of the second around them, in tiles of 8. Of D = 4's
// products, 9 of 24 are in the band and the others are dropped; still there are no conversions, far fewer instructions
// than with scalar arithmetic, and the sums are FP32. A block has a tile of COLUMNS x ROWS pixels; two planes (16
// channels) at a time of both maps come into shared memory by cp.async, STAGES deep, while each warp multiplies 16
// pixels for its share of the dy. At the end the volume is turned into chunks in shared memory and leaves as such.
//
// The channels that fill up the last chunk of the inputs must be zero.
//
// Not measured yet.
#pragma once

#include "pointwise.cuh"

template <int CHANNELS, int D, int COLUMNS, int ROWS, int GROUPS, int STAGES>
struct Correlation {
  static constexpr int PLANES = (CHANNELS + 7) / 8, STEPS = (PLANES + 1) / 2;
  static constexpr int WINDOW = 2 * D + 1, DY = (WINDOW + GROUPS - 1) / GROUPS;  // a warp's rows of displacements
  static constexpr int NT = (16 + 2 * D + 7) / 8;                                // tiles of the second map
  static constexpr int ACROSS = COLUMNS / 16, THREADS = ACROSS * ROWS * GROUPS * WARP;
  static constexpr int WIDE = (ACROSS - 1) * 16 + NT * 8, HIGH = ROWS + 2 * D;  // tile of the second map
  static constexpr int FIRST = ROWS * COLUMNS, SECOND = HIGH * WIDE;            // pixels
  static constexpr int STAGE_BYTES = (FIRST + SECOND) * 2 * 16;
  static constexpr int OUTPUT_CHANNELS = WINDOW * WINDOW, OUTPUT_PLANES = (OUTPUT_CHANNELS + 7) / 8;

  // Two planes of a tile whose first pixel is (left, top); zeros outside the frame and beyond the last plane.
  template <int TILE_COLUMNS, int TILE_PIXELS>
  static DEVICE void load_tile(char* to, const char* from, int plane, int left, int top, int height, int width) {
    const long long pixels = static_cast<long long>(height) * width;
#pragma unroll 1
    for (int i = threadIdx.x; i < 2 * TILE_PIXELS; i += THREADS) {
      const int half = i / TILE_PIXELS, pixel = i % TILE_PIXELS;
      const int row = top + pixel / TILE_COLUMNS, column = left + pixel % TILE_COLUMNS;
      const bool inside = row >= 0 && row < height && column >= 0 && column < width && plane + half < PLANES;
      const long long offset =
          plane_offset(PLANES, plane + half, pixels) + (static_cast<long long>(row) * width + column) * 16;
      copy_chunk(to + i * 16, from + (inside ? offset : 0), inside);
    }
  }

  // One dy, two planes: the 16 pixels in `pixels` against NT tiles of 8 of the row at `second`.
  static DEVICE void multiply_row(float (&sums)[NT][4], const unsigned (&pixels)[4], const char* second, int lane) {
    const char* pixel = second + lane % 8 * 16 + lane / 8 % 2 * (SECOND * 16);  // lanes 8 to 15 address the other plane
    const char* of_pair = pixel + lane / 16 * 128;                              // lanes 16 to 31 the next tile
#pragma unroll
    for (int n = 0; n + 1 < NT; n += 2) {
      unsigned pair[4];
      load_matrices(pair, of_pair + n * 128);
      multiply(sums[n], pixels, pair[0], pair[1]);
      multiply(sums[n + 1], pixels, pair[2], pair[3]);
    }
    if (NT % 2) {
      unsigned single[2];
      load_matrices(single, pixel + (NT - 1) * 128);
      multiply(sums[NT - 1], pixels, single[0], single[1]);
    }
  }

  // `slope` of the leaky ReLU that follows; 1 for none.
  static DEVICE void run(const char* first, const char* second, char* output, float slope, int height, int width) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int group = warp % GROUPS, tile = warp / GROUPS % ACROSS, row = warp / (GROUPS * ACROSS);
    const int left = blockIdx.x * COLUMNS, top = blockIdx.y * ROWS;
    auto load = [&](int step) {
      char* stage = shared_memory() + step % STAGES * STAGE_BYTES;
      if (step < STEPS) {
        load_tile<COLUMNS, FIRST>(stage, first, step * 2, left, top, height, width);
        load_tile<WIDE, SECOND>(stage + FIRST * 32, second, step * 2, left - D, top - D, height, width);
      }
      copy_commit();
    };
#pragma unroll
    for (int step = 0; step < STAGES - 1; ++step) load(step);

    float sums[DY][NT][4];
#pragma unroll
    for (int dy = 0; dy < DY; ++dy)
#pragma unroll
      for (int n = 0; n < NT; ++n)
#pragma unroll
        for (int part = 0; part < 4; ++part) sums[dy][n][part] = 0.f;

#pragma unroll 1
    for (int step = 0; step < STEPS; ++step) {
      copy_wait<STAGES - 2>();
      barrier(0, THREADS);  // this step's tiles are here, and the slot of the last step is free
      load(step + STAGES - 1);
      const char* stage = shared_memory() + step % STAGES * STAGE_BYTES;
      unsigned pixels[4];
      load_matrices(pixels, stage + (lane / 16 * FIRST + row * COLUMNS + tile * 16 + lane % 16) * 16);
#pragma unroll
      for (int dy = 0; dy < DY; ++dy) {
        const int down = group * DY + dy;
        if (WINDOW % GROUPS == 0 || down < WINDOW)
          multiply_row(sums[dy], pixels, stage + (2 * FIRST + (row + down) * WIDE + tile * 16) * 16, lane);
      }
    }
    copy_wait<0>();
    barrier(0, THREADS);  // the tiles are read; their memory now takes the volume, [planes][pixels][8]

    auto* volume = reinterpret_cast<unsigned short*>(shared_memory());
#pragma unroll
    for (int dy = 0; dy < DY; ++dy) {
      const int down = group * DY + dy;
#pragma unroll
      for (int n = 0; n < NT; ++n)
#pragma unroll
        for (int part = 0; part < 4; ++part) {
          const int pixel = lane / 4 + part / 2 * 8, across = n * 8 + lane % 4 * 2 + part % 2 - pixel;
          if (across >= 0 && across < WINDOW && down < WINDOW) {
            const int channel = down * WINDOW + across, place = row * COLUMNS + tile * 16 + pixel;
            volume[(channel / 8 * FIRST + place) * 8 + channel % 8] =
                float_to_half(leaky(sums[dy][n][part] * (1.f / CHANNELS), slope));
          }
        }
    }
    constexpr int PADDING = OUTPUT_PLANES * 8 - OUTPUT_CHANNELS;
    if (PADDING > 0) {
      for (int i = threadIdx.x; i < FIRST * PADDING; i += THREADS)
        volume[((OUTPUT_PLANES - 1) * FIRST + i / PADDING) * 8 + 8 - PADDING + i % PADDING] = 0;
    }
    barrier(0, THREADS);
    const long long pixels = static_cast<long long>(height) * width;
    for (int i = threadIdx.x; i < OUTPUT_PLANES * FIRST; i += THREADS) {
      const int plane = i / FIRST, y = top + i % FIRST / COLUMNS, x = left + i % COLUMNS;
      const long long pixel = static_cast<long long>(y) * width + x;
      if (y < height && x < width)
        store_global16(output + plane_offset(OUTPUT_PLANES, plane, pixels) + pixel * 16,
                       *reinterpret_cast<const uint4*>(shared_memory() + i * 16));
    }
  }
};

// Windows of a pyramid of all-pairs volumes. Level l holds, for each of the height x width pixels of the frame, a map
// of (height >> l) x (width >> l) halves. Output channel l (2 R + 1)^2 + (dx + R)(2 R + 1) + (dy + R) of a pixel is its
// map of level l at (x / 2^l + dx, y / 2^l + dy), bilinear, zeros outside; (x, y) are its coordinates. This is RAFT's
// order of channels: dx is the slower.
//
// All (2 R + 1)^2 samples of a map share their fractions, so (2 R + 2)^2 values are read, each once. A block has PIXELS
// neighbouring pixels; its threads read the rows of their windows side by side, level by level, into shared memory, and
// the samples are gathered there into chunks.
template <int LEVELS, int R, bool SINGLE, bool ABSOLUTE, bool CHUNKED, int PIXELS, int THREADS>
struct Window {
  static constexpr int WINDOW = 2 * R + 1, SIDE = 2 * R + 2;
  static constexpr int CHANNELS = LEVELS * WINDOW * WINDOW, PLANES = (CHANNELS + 7) / 8;
  static constexpr int POSITION_BYTES = PIXELS * 8, WINDOW_BYTES = (PIXELS * SIDE * SIDE * 2 + 15) / 16 * 16;

  // The pixel of a line that the window begins with, and the fraction of the position.
  struct Edge {
    int first;
    float fraction;
  };

  static DEVICE Edge edge(float position, int level, int size) {
    // Positions further outside than the window reaches give zeros; NaN becomes the lower bound.
    const float scaled = position * (1.f / (1 << level));
    const float near = fminf(fmaxf(scaled, -R - 2.f), static_cast<float>(size + R));
    const float below = floorf(near);
    return Edge{static_cast<int>(below) - R, near - below};
  }

  static DEVICE void run(const char* const (&levels)[LEVELS], const char* coordinates, char* output, int height,
                         int width) {
    char* memory = shared_memory();
    auto* positions = reinterpret_cast<float*>(memory);  // [2][PIXELS]
    auto* windows = reinterpret_cast<unsigned short*>(memory + POSITION_BYTES);
    char* chunks = memory + POSITION_BYTES + WINDOW_BYTES;
    auto* samples = reinterpret_cast<unsigned short*>(chunks);
    const long long pixels = static_cast<long long>(height) * width;
    const long long begin = static_cast<long long>(blockIdx.x) * PIXELS;
    const int count = static_cast<int>(min(static_cast<long long>(PIXELS), pixels - begin));
    for (int i = threadIdx.x; i < 2 * count; i += THREADS) {
      const int axis = i / count, pixel = i % count;
      float position = read_flow<SINGLE, CHUNKED>(coordinates, axis, begin + pixel, pixels);
      if (!ABSOLUTE) {
        const int own = static_cast<int>(axis ? (begin + pixel) / width : (begin + pixel) % width);
        position += static_cast<float>(own);
      }
      positions[axis * PIXELS + pixel] = position;
    }
    for (int i = threadIdx.x; i < PIXELS * (PLANES * 8 - CHANNELS); i += THREADS) {
      const int channel = CHANNELS + i / PIXELS;
      samples[(channel / 8 * PIXELS + i % PIXELS) * 8 + channel % 8] = 0;
    }
#pragma unroll
    for (int level = 0; level < LEVELS; ++level) {
      const int rows = height >> level, columns = width >> level;
      barrier(0, THREADS);
      for (int i = threadIdx.x; i < count * SIDE * SIDE; i += THREADS) {
        const int pixel = i / (SIDE * SIDE);
        const int column = edge(positions[pixel], level, columns).first + i % SIDE;
        const int row = edge(positions[PIXELS + pixel], level, rows).first + i / SIDE % SIDE;
        const long long map = (static_cast<long long>(blockIdx.z) * pixels + begin + pixel) * rows;
        unsigned short value = 0;
        if (row >= 0 && row < rows && column >= 0 && column < columns)
          value = reinterpret_cast<const unsigned short*>(levels[level])[(map + row) * columns + column];
        windows[i] = value;
      }
      barrier(0, THREADS);
      for (int i = threadIdx.x; i < count * WINDOW * WINDOW; i += THREADS) {
        const int pixel = i / (WINDOW * WINDOW), dx = i / WINDOW % WINDOW, dy = i % WINDOW;
        const float right = edge(positions[pixel], level, columns).fraction;
        const float lower = edge(positions[PIXELS + pixel], level, rows).fraction;
        const unsigned short* corner = windows + (pixel * SIDE + dy) * SIDE + dx;
        const float above = (1.f - right) * half_to_float(corner[0]) + right * half_to_float(corner[1]);
        const float below = (1.f - right) * half_to_float(corner[SIDE]) + right * half_to_float(corner[SIDE + 1]);
        const int channel = level * WINDOW * WINDOW + i % (WINDOW * WINDOW);
        const float value = (1.f - lower) * above + lower * below;
        samples[(channel / 8 * PIXELS + pixel) * 8 + channel % 8] = float_to_half(value);
      }
    }
    barrier(0, THREADS);
    for (int i = threadIdx.x; i < PLANES * PIXELS; i += THREADS) {
      const int plane = i / PIXELS, pixel = i % PIXELS;
      if (pixel < count)
        store_global16(output + plane_offset(PLANES, plane, pixels) + (begin + pixel) * 16,
                       *reinterpret_cast<const uint4*>(chunks + i * 16));
    }
  }
};
