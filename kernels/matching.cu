// How well images and sentences match: Xu et al., "AttnGAN", CVPR 2018, section 3.2, equations 7 to 13.
// The large products (words by regions, weights by regions and back) are matrix products of all pairs at once; between
// them a block takes one pair of an image and a sentence. M = J·T are the columns of all sentences, padding included.
#include "prelude.cuh"

// Images I, sentences J, words T that a sentence has room for, regions N of an image, D numbers a word or region.
struct PairDims {
    int images, sentences, words, regions, dim;
    float gamma1, gamma2;
};

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

// Norms, and products of norms, are clamped from below to this.
constexpr float EPS = 1e-8f;

// Where in [I,N,M] the rows of a block's pair begin: image blockIdx.y, sentence blockIdx.x.
__device__ __forceinline__ int pair_at(const PairDims& d) {
    return (blockIdx.y * d.regions * d.sentences + blockIdx.x) * d.words;
}

// Reduces the values of one lane over the warps, in the warps' order. `shared` has room for all threads and may be
// used again at once.
template <class Op>
__device__ __forceinline__ float over_warps(float x, float* shared) {
    int lane = threadIdx.x % 32;
    shared[threadIdx.x] = x;
    __syncthreads();
    float all = shared[lane];
#pragma unroll
    for (int w = 1; w < WARPS; w++) all = Op::join(all, shared[w * 32 + lane]);
    __syncthreads();
    return all;
}

// s [I,N,M] holds <region_n, word_m> before, and the softmax over each sentence's own words after;
// alpha [I,N,M] = softmax_n(gamma1 · s) down each word's column. Both zero beyond a length. alpha may be s.
extern "C" __global__ void __launch_bounds__(256) word_scores_weights(
    float* alpha, float* s, const int* lengths, PairDims d
) {
    __shared__ float shared[THREADS];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, length = lengths[blockIdx.x];
    int at = pair_at(d), columns = d.sentences * d.words;
    s += at;
    alpha += at;
    for (int n = warp; n < d.regions; n += WARPS) {
        float* row = s + n * columns;
        float most = Max::none(), sum = 0.0f;
        for (int t = lane; t < length; t += 32) most = fmaxf(most, row[t]);
        most = warp_reduce<Max>(most);
        for (int t = lane; t < length; t += 32) {
            float e = expf(row[t] - most);
            row[t] = e;
            sum += e;
        }
        float scale = 1.0f / warp_reduce<Sum>(sum);
        for (int t = lane; t < d.words; t += 32) row[t] = t < length ? row[t] * scale : 0.0f;
    }
    __syncthreads();
    for (int first = 0; first < d.words; first += 32) {
        int t = first + lane;
        bool own = t < length;
        float most = Max::none(), sum = 0.0f;
        if (own)
            for (int n = warp; n < d.regions; n += WARPS) most = fmaxf(most, s[n * columns + t]);
        most = over_warps<Max>(most, shared);
        if (own)
            for (int n = warp; n < d.regions; n += WARPS) {
                float e = expf(d.gamma1 * (s[n * columns + t] - most));
                alpha[n * columns + t] = e;
                sum += e;
            }
        float scale = 1.0f / over_warps<Sum>(sum, shared);
        if (t < d.words)
            for (int n = warp; n < d.regions; n += WARPS)
                alpha[n * columns + t] = own ? alpha[n * columns + t] * scale : 0.0f;
    }
}

// <a, b>, |a|² and |b|² over a warp.
template <class A, class B>
__device__ __forceinline__ void products_of(float (&p)[3], const A* __restrict__ a, const B* __restrict__ b, int n) {
    p[0] = p[1] = p[2] = 0.0f;
    for (int i = threadIdx.x % 32; i < n; i += 32) {
        float x = to_float(a[i]), y = to_float(b[i]);
        p[0] += x * y;
        p[1] += x * x;
        p[2] += y * y;
    }
#pragma unroll
    for (int i = 0; i < 3; i++) p[i] = warp_reduce<Sum>(p[i]);
}

// cosines [T] of a pair's words with their contexts, norms [2][T] clamped from below; returns
// ln Σ_t exp(gamma2 · cosine_t). All in shared memory.
__device__ __forceinline__ float score_of(
    float* cosines, float* norms, const float* __restrict__ context, const real* __restrict__ words, int length,
    const PairDims& d
) {
    int lane = threadIdx.x % 32;
    for (int t = threadIdx.x / 32; t < length; t += WARPS) {
        float p[3];
        products_of(p, words + t * d.dim, context + t * d.dim, d.dim);
        float word = fmaxf(sqrtf(p[1]), EPS), region = fmaxf(sqrtf(p[2]), EPS);
        if (lane == 0) {
            cosines[t] = p[0] / (word * region);
            norms[t] = word;
            norms[d.words + t] = region;
        }
    }
    __syncthreads();
    float most = Max::none(), sum = 0.0f;
    for (int t = 0; t < length; t++) most = fmaxf(most, d.gamma2 * cosines[t]);
    for (int t = 0; t < length; t++) sum += expf(d.gamma2 * cosines[t] - most);
    return most + logf(sum);
}

// scores [I,J] = ln Σ_t exp(gamma2 · cos(word_t, context_t)) over a sentence's own words (equation 10).
// context [I,M,D], words [J,T,D]; three times T numbers of shared memory.
extern "C" __global__ void __launch_bounds__(256) word_scores_fwd(
    float* __restrict__ scores, const float* __restrict__ context, const real* __restrict__ words,
    const int* __restrict__ lengths, PairDims d
) {
    extern __shared__ float cosines[];
    int pair = blockIdx.y * d.sentences + blockIdx.x, size = d.words * d.dim;
    int length = lengths[blockIdx.x];
    float score = score_of(cosines, cosines + d.words, context + pair * size, words + blockIdx.x * size, length, d);
    if (threadIdx.x == 0) scores[pair] = score;
}

// With slope = dy · gamma2 · exp(gamma2·cos - score): dcontext [I,M,D] = slope (word / |word||context| - cos context /
// |context|²), zero beyond a length; slopes [I,M,2] = slope / |word||context| and slope cos / |word|², for the words'
// gradient. A clamped norm is a constant. dy [I,J]; the rest as word_scores_fwd has it.
extern "C" __global__ void __launch_bounds__(256) word_scores_bwd_context(
    float* __restrict__ dcontext, float* __restrict__ slopes, const float* __restrict__ context,
    const real* __restrict__ words, const float* __restrict__ dy, const int* __restrict__ lengths, PairDims d
) {
    extern __shared__ float cosines[];
    int pair = blockIdx.y * d.sentences + blockIdx.x, size = d.words * d.dim, length = lengths[blockIdx.x];
    float* norms = cosines + d.words;
    words += blockIdx.x * size;
    context += pair * size;
    dcontext += pair * size;
    float score = score_of(cosines, norms, context, words, length, d);
    for (int t = threadIdx.x / 32; t < d.words; t += WARPS) {
        float across = 0.0f, along[2] = {};
        if (t < length) {
            float slope = dy[pair] * d.gamma2 * expf(d.gamma2 * cosines[t] - score);
            float own[2] = {norms[t], norms[d.words + t]};
            across = slope / (own[0] * own[1]);
#pragma unroll
            for (int i = 0; i < 2; i++) along[i] = own[i] > EPS ? slope * cosines[t] / (own[i] * own[i]) : 0.0f;
        }
        for (int i = t * d.dim + threadIdx.x % 32; i < (t + 1) * d.dim; i += 32)
            dcontext[i] = t < length ? across * to_float(words[i]) - along[1] * context[i] : 0.0f;
        if (threadIdx.x % 32 == 0) {
            float* slope = slopes + (pair * d.words + t) * 2;
            slope[0] = across, slope[1] = along[0];
        }
    }
}

// dsim [I,N,M] holds <region_n, dcontext_m> before, and the gradient of <region_n, word_m> after, zero beyond a length:
// d = gamma1 · alpha · (d - Σ_n alpha d), then d = s · (d - Σ_t s d) over each sentence's words. T numbers of shared
// memory.
extern "C" __global__ void __launch_bounds__(256) word_scores_bwd_weights(
    float* __restrict__ dsim, const float* __restrict__ alpha, const float* __restrict__ s,
    const int* __restrict__ lengths, PairDims d
) {
    extern __shared__ float means[];
    __shared__ float shared[THREADS];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, length = lengths[blockIdx.x];
    int at = pair_at(d), columns = d.sentences * d.words;
    dsim += at;
    alpha += at;
    s += at;
    for (int first = 0; first < length; first += 32) {
        int t = first + lane;
        float mean = 0.0f;
        if (t < length)
            for (int n = warp; n < d.regions; n += WARPS) mean += dsim[n * columns + t] * alpha[n * columns + t];
        mean = over_warps<Sum>(mean, shared);
        if (warp == 0 && t < length) means[t] = mean;
    }
    __syncthreads();
    for (int n = warp; n < d.regions; n += WARPS) {
        int row = n * columns;
        float mean = 0.0f;
        for (int t = lane; t < length; t += 32) {
            float value = d.gamma1 * alpha[row + t] * (dsim[row + t] - means[t]);
            dsim[row + t] = value;
            mean += value * s[row + t];
        }
        mean = warp_reduce<Sum>(mean);
        for (int t = lane; t < d.words; t += 32)
            dsim[row + t] = t < length ? s[row + t] * (dsim[row + t] - mean) : 0.0f;
    }
}

// dwords [J,T,D] = Σ_i dsim_iᵀ regions_i, which is `through` [I,M,D], and of the cosines across · context_i - along ·
// word, over the images in their order; zero beyond a length. A thread a number.
extern "C" __global__ void __launch_bounds__(256) word_scores_bwd_words(
    real* __restrict__ dwords, const float* __restrict__ through, const float* __restrict__ context,
    const float* __restrict__ slopes, const real* __restrict__ words, const int* __restrict__ lengths, PairDims d
) {
    int columns = d.sentences * d.words, size = columns * d.dim;
    for (int i = thread_index(); i < size; i += thread_count()) {
        int m = i / d.dim;
        float sum = 0.0f, along = 0.0f;
        if (m % d.words < lengths[m / d.words]) {
            for (int image = 0; image < d.images; image++) {
                const float* slope = slopes + (image * columns + m) * 2;
                sum += through[image * size + i] + slope[0] * context[image * size + i];
                along += slope[1];
            }
            sum -= along * to_float(words[i]);
        }
        set(dwords[i], sum);
    }
}

// ---------------------------------------------------------------- whole sentences

// scores [I,J] = <code_i, sentence_j> / (|code_i| |sentence_j|), codes [I,D], sentences [J,D]; norms [I+J] of both. A
// warp a pair.
extern "C" __global__ void __launch_bounds__(256) cosine_scores_fwd(
    float* __restrict__ scores, float* __restrict__ norms, const real* __restrict__ code,
    const real* __restrict__ sentence, int images, int sentences, int dim
) {
    for (int pair = thread_index() / 32; pair < images * sentences; pair += thread_count() / 32) {
        int i = pair / sentences, j = pair % sentences;
        float p[3];
        products_of(p, code + i * dim, sentence + j * dim, dim);
        if (threadIdx.x % 32 != 0) continue;
        float first = sqrtf(p[1]), second = sqrtf(p[2]);
        scores[pair] = p[0] / fmaxf(first * second, EPS);
        if (j == 0) norms[i] = first;
        if (i == 0) norms[images + j] = second;
    }
}

// One row of a gradient: dx = Σ_k dy_k / |x||other_k| other_k - (Σ_k dy_k y_k) / |x|² x. A block a row; y and dy of its
// pairs stand `apart`.
__device__ __forceinline__ void cosine_row(
    real* __restrict__ dx, const real* __restrict__ x, const real* __restrict__ others, const float* __restrict__ y,
    const float* __restrict__ dy, int apart, float norm, const float* __restrict__ norms, int n, int dim
) {
    for (int c = threadIdx.x; c < dim; c += blockDim.x) {
        float sum = 0.0f, along = 0.0f;
        for (int k = 0; k < n; k++) {
            float both = norm * norms[k], slope = dy[k * apart];
            sum += slope / fmaxf(both, EPS) * to_float(others[k * dim + c]);
            if (both > EPS) along += slope * y[k * apart] / (norm * norm);
        }
        set(dx[c], sum - along * to_float(x[c]));
    }
}

// dcode [I,D] and dsentence [J,D]; scores, norms as cosine_scores_fwd wrote them. A block a row of either.
extern "C" __global__ void __launch_bounds__(256) cosine_scores_bwd(
    real* __restrict__ dcode, real* __restrict__ dsentence, const real* __restrict__ code,
    const real* __restrict__ sentence, const float* __restrict__ scores, const float* __restrict__ norms,
    const float* __restrict__ dy, int images, int sentences, int dim
) {
    int i = blockIdx.x, j = i - images;
    if (i < images)
        cosine_row(
            dcode + i * dim, code + i * dim, sentence, scores + i * sentences, dy + i * sentences, 1, norms[i],
            norms + images, sentences, dim
        );
    else
        cosine_row(
            dsentence + j * dim, sentence + j * dim, code, scores + j, dy + j, sentences, norms[i], norms, images, dim
        );
}

// ---------------------------------------------------------------- the loss

// Whether a pair takes part: matches do, other pairs of one class do not.
__device__ __forceinline__ bool kept(const int* __restrict__ classes, int i, int j) {
    return i == j || !classes || classes[i] != classes[j];
}

// p [B,B] = softmax of gamma3 · scores over each row, q [B,B] over each column, turned; losses [2B] = -ln of their
// diagonals (equations 11 to 13). scores [B,B], classes [B] or none; a warp a row or column.
extern "C" __global__ void __launch_bounds__(256) matching_loss_fwd(
    float* __restrict__ losses, float* __restrict__ p, float* __restrict__ q, const float* __restrict__ scores,
    OPTIONAL const int* __restrict__ classes, int batch, float gamma3
) {
    int lane = threadIdx.x % 32;
    for (int row = thread_index() / 32; row < 2 * batch; row += thread_count() / 32) {
        bool by_column = row >= batch;
        int i = by_column ? row - batch : row, along = by_column ? batch : 1;
        const float* logits = scores + i * (by_column ? 1 : batch);
        float most = Max::none(), sum = 0.0f;
        for (int j = lane; j < batch; j += 32)
            if (kept(classes, i, j)) most = fmaxf(most, gamma3 * logits[j * along]);
        most = warp_reduce<Max>(most);
        for (int j = lane; j < batch; j += 32)
            if (kept(classes, i, j)) sum += expf(gamma3 * logits[j * along] - most);
        float all = most + logf(warp_reduce<Sum>(sum));
        float* out = (by_column ? q : p) + i * batch;
        for (int j = lane; j < batch; j += 32)
            out[j] = kept(classes, i, j) ? expf(gamma3 * logits[j * along] - all) : 0.0f;
        if (lane == 0) losses[row] = all - gamma3 * logits[i * along];
    }
}

// The means of losses [2B]: over the rows, over the columns. One warp.
extern "C" __global__ void __launch_bounds__(32) matching_loss_mean(
    float* __restrict__ by_rows, float* __restrict__ by_columns, const float* __restrict__ losses, int batch
) {
    float sums[2] = {};
    for (int i = threadIdx.x; i < batch; i += 32) {
        sums[0] += losses[i];
        sums[1] += losses[batch + i];
    }
    float rows = warp_reduce<Sum>(sums[0]), columns = warp_reduce<Sum>(sums[1]);
    if (threadIdx.x == 0) {
        *by_rows = rows / (float)batch;
        *by_columns = columns / (float)batch;
    }
}

// ds_ij = gamma3 / B (drows (p_ij - [i=j]) + dcolumns (q_ji - [i=j])); drows and dcolumns a number each, or none.
extern "C" __global__ void __launch_bounds__(256) matching_loss_bwd(
    float* __restrict__ ds, const float* __restrict__ p, const float* __restrict__ q,
    OPTIONAL const float* __restrict__ drows, OPTIONAL const float* __restrict__ dcolumns, int batch, float gamma3
) {
    for (int at = thread_index(); at < batch * batch; at += thread_count()) {
        int i = at / batch, j = at % batch;
        float target = i == j ? 1.0f : 0.0f;
        float rows = drows ? *drows * (p[at] - target) : 0.0f;
        float columns = dcolumns ? *dcolumns * (q[j * batch + i] - target) : 0.0f;
        ds[at] = gamma3 / (float)batch * (rows + columns);
    }
}
