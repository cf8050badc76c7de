extern "C" __global__ void maths(const float* x, float* s, const double* xd, double* sd, const unsigned long long* a, unsigned long long* b, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) {
    s[i] = sinf(x[i]) + expf(-fabsf(x[i])) + logf(1.f + fabsf(x[i])) + erff(x[i]) + powf(fabsf(x[i]), 0.3f) + rsqrtf(1.f + x[i] * x[i]);
    sd[i] = sin(xd[i]) + tanh(xd[i]);
    b[i] = __umul64hi(a[i], a[i] * 7) + a[i] / 10ull + a[i] % 13ull;
  }
}
