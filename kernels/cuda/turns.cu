/*
 * turns.cu - the CPU's turns in a step: experts that are not on the card, without anybody waiting for a stream.
 *
 * Where the CPU computes every expert that the card does not have, a step is one run through all layers.  In each layer
 * of experts the card tells the host in its own memory what was chosen and where that is, with the activations if some
 * of it is elsewhere, and that it is the host's turn; goes on with the shared expert and those that it has; and waits,
 * if it lacks any, for the rest at the sum.  The host sees its turn, computes, and says so in the same way.  Layers
 * that lack nothing wait for nobody: the host hears of them later.
 *
 * So between the launch of a run and its last answer the host calls nothing of CUDA that waits for the card, which may
 * be waiting for the host.  What ends a run early - a read that fails - lets the card go on with what it has: the step
 * has failed, and its x is nobody's.
 */
#include "kernels/cuda/backend.h"

#include <assert.h>

enum { THREADS = 256, NEVER_MIND = 0xFFFFFFFFu };

uint32_t gpu_turns_most = 0x40000000;

/* One block: what is told comes before the flag. */
static __global__ void __launch_bounds__(THREADS) question_kernel(gpu_question q)
{
    const uint64_t *where = static_cast<const uint64_t *>(q.choice);
    const uint32_t *from = static_cast<const uint32_t *>(q.choice);
    uint32_t *to = static_cast<uint32_t *>(q.host_choice);
    bool lacks = false;
    for (uint32_t i = threadIdx.x; i < q.picks; i += THREADS)
        lacks |= where[i] == 0;
    for (uint32_t i = threadIdx.x; i < q.picks * (HS_CARD_CHOICE_BYTES / 4); i += THREADS)
        to[i] = from[i];
    for (uint32_t i = threadIdx.x; i < q.guesses; i += THREADS)
        q.host_guess[i] = q.guess[i];
    if (__syncthreads_or(lacks))
        for (uint32_t i = threadIdx.x; i < q.floats; i += THREADS)
            q.host_u[i] = q.u[i];
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t turn = *q.turn + 1;
        *q.turn = turn;
        gpu_flag_set(q.told, turn);
    }
}

cudaError_t gpu_run_question(const gpu_question *q, cudaStream_t s)
{
    return gpu_launch(question_kernel, dim3(1), dim3(THREADS), 0, s, *q);
}

cudaError_t gpu_load_turns(void)
{
    return gpu_load(question_kernel);
}

/* The same bytes, as the card addresses them. */
template <class T> static hlwq_status there(T *host, T **card, hlwq_error *err)
{
    void *p;
    CUDA_DO("memory that it shares with the host", cudaHostGetDevicePointer(&p, host, 0));
    *card = static_cast<T *>(p);
    return HLWQ_OK;
}

hlwq_status gpu_open_turns(hs_cuda *c, hlwq_error *err)
{
    gpu_turns *t = &c->turns;
    if (c->lim.experts == 0)
        return HLWQ_OK;
    HS_TRY(there(c->host_y, &t->y_there, err));
    HS_TRY(there(c->host_u, &t->u_there, err));
    HS_TRY(there(c->host_choices, &t->choices_there, err));
    HS_TRY(there(c->host_guesses, &t->guesses_there, err));
    HS_TRY(there(t->told, &t->told_there, err));
    HS_TRY(there(t->answered, &t->answered_there, err));
    *t->told = *t->answered = 0;
    return HLWQ_OK;
}

/* After some that were never answered the flag says so still; and before they are too many for it they begin anew. */
hlwq_status gpu_begin_turns(hs_cuda *c, hlwq_error *err)
{
    gpu_turns *t = &c->turns;
    if (t->asked >= gpu_turns_most) {
        CUDA_DO("a step", cudaMemsetAsync(t->turn, 0, sizeof *t->turn, c->stream));
        t->asked = *t->told = 0;
    }
    t->heard = t->said = t->asked;
    hs_gpu_host_flag_set(t->answered, t->said);
    return HLWQ_OK;
}

void gpu_end_turns(hs_cuda *c)
{
    gpu_turns *t = &c->turns;
    if (t->said == t->asked)
        return;
    t->said = t->asked;
    hs_gpu_host_flag_set(t->answered, NEVER_MIND);
}

static bool guesses(const hs_cuda *c, const hs_mixture *w)
{
    return c->steps.step.guesses && w->next;
}

static hlwq_status question(hs_cuda *c, const hs_mixture *w, uint32_t n, const float *x, hlwq_error *err)
{
    gpu_turns *t = &c->turns;
    hs_routing guess;
    gpu_question q = {};
    q.choice = c->choice;
    q.host_choice = t->choices_there + ((uint8_t *)gpu_host_choice(c, w, n).where - c->host_choices);
    q.u = c->u;
    q.host_u = t->u_there;
    if (guesses(c, w)) {
        HS_TRY(gpu_guess(c, w->next, 1, x, &guess, err));
        q.guess = guess.id;
        q.host_guess = t->guesses_there + (uint64_t)w->row * c->lim.used;
        q.guesses = w->next->used;
    }
    q.turn = t->turn;
    q.told = t->told_there;
    q.picks = n * w->used;
    q.floats = n * c->lim.hidden;
    CUDA_DO("the router", gpu_run_question(&q, c->stream));
    return HLWQ_OK;
}

hlwq_status gpu_ask(hs_cuda *c, const hs_mixture *w, uint32_t n, const float *x, hlwq_error *err)
{
    HS_TRY(gpu_recorded(
        c, GPU_OPERANDS(w, x, n), [=](hlwq_error *why) { return question(c, w, n, x, why); }, err));
    c->steps.turns++;
    c->turns.asked += c->steps.mode != GPU_REPLAYED; /* those of a run that is played back were counted with it */
    return HLWQ_OK;
}

hlwq_status gpu_hear(hs_cuda *c, const hs_mixture *w, uint32_t n, hs_routing *routing, hlwq_error *err)
{
    gpu_turns *t = &c->turns;
    const gpu_choice host = gpu_host_choice(c, w, n);
    uint64_t picks = (uint64_t)n * w->used;
    assert(t->heard == t->said && t->heard != t->asked);
    CUDA_DO("the router", hs_gpu_host_flag_wait(t->told, ++t->heard, c->stream));
    c->stages.done = c->stages.made; /* what came before the step is done */
    memcpy(routing->id, host.id, picks * sizeof(int32_t));
    memcpy(routing->weight, host.weight, picks * sizeof(float));
    routing->found = host.where;
    routing->guess = guesses(c, w) ? c->host_guesses + (uint64_t)w->row * c->lim.used : NULL;
    return HLWQ_OK;
}

void gpu_answer(hs_cuda *c)
{
    gpu_turns *t = &c->turns;
    t->said = t->heard;
    hs_gpu_host_flag_set(t->answered, t->said);
}

gpu_answers gpu_answers_to(const hs_cuda *c, const gpu_choice *choice)
{
    const gpu_turns *t = &c->turns;
    return t->now ? gpu_answers{choice->where, t->y_there, t->answered_there, t->turn} : gpu_answers{};
}
