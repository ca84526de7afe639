// The instructions that the kernels use, once as PTX and once for the emulator.
#pragma once

#ifdef CODESIGN_EMULATED
#include "emulator.h"
#endif

constexpr int WARP = 32;

// Elements of 16-byte chunks: 8 halves or 16 int8 channels. Everything in shared memory is moved in chunks.
struct Half {
  static constexpr int BYTES = 2, CHUNK = 8;
  using Sum = float;
};
struct Int8 {
  static constexpr int BYTES = 1, CHUNK = 16;
  using Sum = int;
};

#ifndef CODESIGN_EMULATED

#define DEVICE __device__ __forceinline__

DEVICE unsigned shared_address(const void* pointer) { return static_cast<unsigned>(__cvta_generic_to_shared(pointer)); }

DEVICE char* shared_memory() {
  extern __shared__ __align__(1024) char memory[];
  return memory;
}

// Two floats rounded to halves, the first in the low bits.
DEVICE unsigned pack_halves(float low, float high) {
  unsigned result;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}

DEVICE float half_to_float(unsigned short bits) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(bits));
  return result;
}

DEVICE unsigned short float_to_half(float value) {
  unsigned short result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(value));
  return result;
}

// Four 8x8 matrices of 16-bit elements: lane i gives the address of row i % 8 of matrix i / 8.
DEVICE void load_matrices(unsigned (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row)));
}

// Two matrices; lanes 0 to 15 give the addresses.
DEVICE void load_matrices(unsigned (&to)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(to[0]), "=r"(to[1])
               : "r"(shared_address(row)));
}

// sum[16][8] += a[16][2 chunks] b[2 chunks][8]
DEVICE void multiply(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE void multiply(int (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same with one chunk.
DEVICE void multiply(float (&sum)[4], const unsigned (&a)[2], unsigned b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}
DEVICE void multiply(int (&sum)[4], const unsigned (&a)[2], unsigned b) {
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}

// 16 bytes from global to shared memory, later; zeros unless `inside`.
DEVICE void copy_chunk(void* to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(inside ? 16 : 0)
               : "memory");
}
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT>
DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// All `threads` threads of the block that name this barrier.
DEVICE void barrier(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

DEVICE uint4 load_global16(const void* from) { return __ldg(static_cast<const uint4*>(from)); }
DEVICE void store_global16(void* to, uint4 value) { *static_cast<uint4*>(to) = value; }

DEVICE float fast_tanh(float x) {  // error 2^-22; tanh.approx has 2^-11
  const float e = __expf(2.f * fabsf(x));
  const float result = fabsf(x) > 9.f ? 1.f : __fdividef(e - 1.f, e + 1.f);
  return copysignf(result, x);
}

DEVICE float fast_exp(float x) { return __expf(x); }

#else  // emulated

#define DEVICE inline

DEVICE char* shared_memory() { return emulator::shared_base(); }

DEVICE float half_to_float(unsigned short bits) {
  _Float16 value;
  std::memcpy(&value, &bits, 2);
  return static_cast<float>(value);
}
DEVICE unsigned short float_to_half(float value) {
  const auto half = static_cast<_Float16>(value);
  unsigned short bits;
  std::memcpy(&bits, &half, 2);
  return bits;
}
DEVICE unsigned pack_halves(float low, float high) { return float_to_half(low) | unsigned(float_to_half(high)) << 16; }

namespace emulator {

template <int MATRICES>
void load_matrices(unsigned (&to)[MATRICES], const void* row) {
  struct Lane { const void* row; unsigned* to; } self{row, to};
  static const char here = 0;
  together(&here, self, [](Lane** lanes) {
    for (int matrix = 0; matrix < MATRICES; ++matrix)
      for (int lane = 0; lane < LANES; ++lane) {
        const void* from = lanes[matrix * 8 + lane / 4]->row;
        check_shared(from, 16, 16);
        std::memcpy(&lanes[lane]->to[matrix], static_cast<const char*>(from) + lane % 4 * 4, 4);
      }
  });
}

inline void products(float* sum, unsigned a, unsigned b) {
  for (int half = 0; half < 2; ++half)
    *sum += half_to_float(static_cast<unsigned short>(a >> 16 * half)) *
            half_to_float(static_cast<unsigned short>(b >> 16 * half));
}
inline void products(int* sum, unsigned a, unsigned b) {
  for (int byte = 0; byte < 4; ++byte)
    *sum += int(static_cast<int8_t>(a >> 8 * byte)) * int(static_cast<int8_t>(b >> 8 * byte));
}

template <class Sum, int CHUNKS>
void multiply(Sum* sum, const unsigned* a, const unsigned* b) {
  struct Lane { Sum* sum; const unsigned *a, *b; } self{sum, a, b};
  static const char here = 0;
  together(&here, self, [](Lane** lanes) {
    for (int lane = 0; lane < LANES; ++lane)
      for (int part = 0; part < 4; ++part) {
        const int row = part / 2, column = lane % 4 * 2 + part % 2;
        for (int chunk = 0; chunk < CHUNKS; ++chunk)
          for (int word = 0; word < 4; ++word)
            products(lanes[lane]->sum + part, lanes[lane / 4 * 4 + word]->a[chunk * 2 + row],
                     lanes[column * 4 + word]->b[chunk]);
      }
  });
}

}  // namespace emulator

DEVICE void load_matrices(unsigned (&to)[4], const void* row) { emulator::load_matrices(to, row); }
DEVICE void load_matrices(unsigned (&to)[2], const void* row) { emulator::load_matrices(to, row); }
template <class Sum>
DEVICE void multiply(Sum (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  const unsigned b[2] = {b0, b1};
  emulator::multiply<Sum, 2>(sum, a, b);
}
template <class Sum>
DEVICE void multiply(Sum (&sum)[4], const unsigned (&a)[2], unsigned b) {
  emulator::multiply<Sum, 1>(sum, a, &b);
}

DEVICE void copy_chunk(void* to, const void* from, bool inside) { emulator::copy_async(to, from, 16, inside ? 16 : 0); }
DEVICE void copy_commit() { emulator::copy_commit(); }
template <int LEFT>
DEVICE void copy_wait() { emulator::copy_wait(LEFT); }
DEVICE void barrier(int id, int threads) { emulator::barrier(id, threads); }

DEVICE uint4 load_global16(const void* from) {
  emulator::check_aligned(from, 16);
  return *static_cast<const uint4*>(from);
}
DEVICE void store_global16(void* to, uint4 value) {
  emulator::check_aligned(to, 16);
  *static_cast<uint4*>(to) = value;
}
DEVICE float fast_tanh(float x) { return std::tanh(x); }
DEVICE float fast_exp(float x) { return std::exp(x); }
template <class T>
DEVICE T min(T a, T b) { return a < b ? a : b; }
template <class T>
DEVICE T max(T a, T b) { return a > b ? a : b; }
using std::fmaxf;
using std::fminf;

#endif
