/*
 * trellis.c - mean squared error of trellis codes on Gaussian numbers, beside Lloyd-Max levels of as many bits.
 *
 *   cc -O3 -march=native -o build/trellis tests/lab/trellis.c -lm
 *   build/trellis BITS STATE_BITS [WEIGHTS] [ROUNDS]
 *
 * Not part of the build; docs/experiments.md says what it found.  A bit-shift trellis: the state is the last STATE_BITS
 * bits of the row's codes, and the number that it stands for is looked up.  The table starts as Gaussian quantiles in a
 * scattered order and is improved as Lloyd does it (the mean of what each state came to stand for), on other numbers
 * than those that are measured.  Rows of 2,048 start in state 0, so a code costs BITS bits and no more.  The best path
 * is found by dynamic programming.  Levels are int8, as kernels would have them.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROW = 2048 };

static const double lloyd_max[] = {0, 0.363380, 0.117482, 0.0345478, 0.00950090, 0.00250515};

static uint64_t seed = 1;

static double uniform(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return ((double)(seed >> 11) + 0.5) * 0x1p-53;
}

static float gauss(void)
{
    return (float)(sqrt(-2 * log(uniform())) * cos(2 * M_PI * uniform()));
}

static float quantile(double p) /* by bisection: used once a state */
{
    double low = -8, high = 8;
    for (int i = 0; i < 60; i++) {
        double m = (low + high) / 2;
        *(erfc(-m / sqrt(2)) / 2 < p ? &low : &high) = m;
    }
    return (float)low;
}

/* Least squared error of one row; state[i] = where step i ended. */
static double best_path(const float *x, int bits, int state_bits, const float *level, uint8_t *from, float *cost,
                        uint32_t *state)
{
    uint32_t n = 1u << state_bits, inputs = 1u << bits, stride = n >> bits;
    float *now = cost, *next = cost + n;
    for (uint32_t s = 0; s < n; s++)
        now[s] = s ? 1e30f : 0;
    for (int i = 0; i < ROW; i++) {
        uint8_t *took = from + (size_t)i * stride;
        for (uint32_t rest = 0; rest < stride; rest++) { /* states that share all but their oldest bits */
            float least = now[rest];
            uint8_t which = 0;
            for (uint32_t k = 1; k < inputs; k++)
                if (now[rest + k * stride] < least) {
                    least = now[rest + k * stride];
                    which = (uint8_t)k;
                }
            took[rest] = which;
            for (uint32_t c = 0; c < inputs; c++) {
                float d = x[i] - level[rest * inputs + c];
                next[rest * inputs + c] = least + d * d;
            }
        }
        float *swap = now;
        now = next;
        next = swap;
    }
    uint32_t s = 0;
    for (uint32_t k = 1; k < n; k++)
        if (now[k] < now[s])
            s = k;
    double least = now[s];
    for (int i = ROW; i-- > 0;) {
        state[i] = s;
        uint32_t rest = s >> bits;
        s = rest + from[(size_t)i * stride + rest] * stride;
    }
    return least;
}

int main(int argc, char **argv)
{
    int bits = argc > 1 ? atoi(argv[1]) : 3, state_bits = argc > 2 ? atoi(argv[2]) : 4;
    int weights = argc > 3 ? atoi(argv[3]) : 1 << 17, rounds = argc > 4 ? atoi(argv[4]) : 10;
    if (bits < 1 || bits > 5 || state_bits < bits + 1 || state_bits > 16 || weights < ROW)
        return fprintf(stderr, "usage: trellis BITS(1-5) STATE_BITS(BITS+1..16) [WEIGHTS] [ROUNDS]\n"), 2;
    uint32_t n = 1u << state_bits;
    float *level = malloc(n * sizeof *level), *cost = malloc(2 * n * sizeof *cost), row[ROW];
    double *sum = malloc(n * sizeof *sum), *count = malloc(n * sizeof *count);
    uint8_t *from = malloc((size_t)ROW * (n >> bits));
    uint32_t *state = malloc(ROW * sizeof *state);
    if (!level || !cost || !sum || !count || !from || !state)
        return 1;
    for (uint32_t s = 0; s < n; s++)
        level[s] = quantile((s + 0.5) / n);
    for (uint32_t s = n; s-- > 1;) { /* scattered */
        uint32_t other = (uint32_t)(uniform() * (s + 1));
        float swap = level[s];
        level[s] = level[other];
        level[other] = swap;
    }
    for (int r = 0; r <= rounds; r++) {
        double error = 0;
        int rows = weights / ROW;
        memset(sum, 0, n * sizeof *sum);
        memset(count, 0, n * sizeof *count);
        if (r == rounds) { /* measured on fresh numbers, with int8 levels */
            float most = 0;
            for (uint32_t s = 0; s < n; s++)
                most = fmaxf(most, fabsf(level[s]));
            for (uint32_t s = 0; s < n; s++)
                level[s] = rintf(level[s] / most * 127) * most / 127;
        }
        for (int i = 0; i < rows; i++) {
            for (int k = 0; k < ROW; k++)
                row[k] = gauss();
            error += best_path(row, bits, state_bits, level, from, cost, state);
            for (int k = 0; k < ROW; k++) {
                sum[state[k]] += row[k];
                count[state[k]]++;
            }
        }
        if (r == rounds) {
            double mse = error / ((double)rows * ROW), db = 10 * log10(lloyd_max[bits] / mse);
            double slope = 10 * log10(lloyd_max[bits] / lloyd_max[bits + 1 > 5 ? 5 : bits + 1]);
            if (bits >= 5)
                slope = 10 * log10(lloyd_max[4] / lloyd_max[5]);
            printf("%d bits, %6u states: mse %.6f, Lloyd-Max %.6f, %.2f dB = %.2f bits\n", bits, n, mse,
                   lloyd_max[bits], db, db / slope);
        }
        for (uint32_t s = 0; s < n; s++)
            if (count[s] > 0 && r < rounds)
                level[s] = (float)(sum[s] / count[s]);
    }
    free(level), free(cost), free(sum), free(count), free(from), free(state);
    return 0;
}
