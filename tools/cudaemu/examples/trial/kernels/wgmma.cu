// sm_90a: one warpgroup, wgmma m64n64 from shared memory without swizzle (K-major A and B^T), accumulated in f32.
__device__ __forceinline__ unsigned long long mk_desc(const void* p, int lbo, int sbo) {
  unsigned a = (unsigned)__cvta_generic_to_shared(p);
  unsigned long long d = 0;
  d |= (unsigned long long)((a & 0x3FFFF) >> 4);
  d |= (unsigned long long)((lbo & 0x3FFFF) >> 4) << 16;
  d |= (unsigned long long)((sbo & 0x3FFFF) >> 4) << 32;
  return d;
}
// One instruction takes 32 bytes of K: two core matrices of 8 rows x 16 bytes, each stored contiguously (128 bytes).
#define TILE(name, T, instruction, transposes) \
extern "C" __global__ void __launch_bounds__(128) name(const T* A, const T* Bt, float* C, int K) { \
  constexpr int E = 16 / sizeof(T); /* elements in a row of a core matrix */ \
  __shared__ __align__(128) T As[64 * 2 * E]; \
  __shared__ __align__(128) T Bs[64 * 2 * E]; \
  float d[32]; \
  _Pragma("unroll") for (int i = 0; i < 32; ++i) d[i] = 0.f; \
  int t = threadIdx.x; \
  for (int k0 = 0; k0 < K; k0 += 2 * E) { \
    for (int i = t; i < 64 * 2 * E; i += 128) { \
      int r = i / (2 * E), k = i % (2 * E); \
      int off = ((k / E) * 8 + r / 8) * 8 * E + (r % 8) * E + k % E; \
      As[off] = A[r * K + k0 + k]; \
      Bs[off] = Bt[r * K + k0 + k]; \
    } \
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); \
    __syncthreads(); \
    unsigned long long da = mk_desc(As, 1024, 128), db = mk_desc(Bs, 1024, 128); \
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n" \
      "wgmma.mma_async.sync.aligned." instruction " " \
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1" transposes ";\n}\n" \
      : "+f"(d[0]),"+f"(d[1]),"+f"(d[2]),"+f"(d[3]),"+f"(d[4]),"+f"(d[5]),"+f"(d[6]),"+f"(d[7]), \
        "+f"(d[8]),"+f"(d[9]),"+f"(d[10]),"+f"(d[11]),"+f"(d[12]),"+f"(d[13]),"+f"(d[14]),"+f"(d[15]), \
        "+f"(d[16]),"+f"(d[17]),"+f"(d[18]),"+f"(d[19]),"+f"(d[20]),"+f"(d[21]),"+f"(d[22]),"+f"(d[23]), \
        "+f"(d[24]),"+f"(d[25]),"+f"(d[26]),"+f"(d[27]),"+f"(d[28]),"+f"(d[29]),"+f"(d[30]),"+f"(d[31]) \
      : "l"(da), "l"(db), "r"(1)); \
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); \
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); \
    __syncthreads(); \
  } \
  int w = t / 32, lane = t % 32; \
  _Pragma("unroll") for (int j = 0; j < 8; ++j) { \
    int r = w * 16 + lane / 4, c = j * 8 + (lane % 4) * 2; \
    C[r * 64 + c] = d[j * 4]; C[r * 64 + c + 1] = d[j * 4 + 1]; \
    C[(r + 8) * 64 + c] = d[j * 4 + 2]; C[(r + 8) * 64 + c + 1] = d[j * 4 + 3]; \
  } \
}
TILE(wgmma_f16, unsigned short, "m64n64k16.f32.f16.f16", ", 0, 0")
TILE(wgmma_bf16, unsigned short, "m64n64k16.f32.bf16.bf16", ", 0, 0")
TILE(wgmma_tf32, unsigned, "m64n64k8.f32.tf32.tf32", "")
