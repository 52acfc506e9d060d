/*
 * kernels/cuda/sim/fiber.cc - stacks for CUDA threads, and the switch between them.
 *
 * Only one host thread at a time runs fibers (it holds the simulator's mutex), so there is one pool and one
 * sim_host_stack.  On x86-64 a switch is our own: callee-saved registers and the control words of the floating-point
 * units, about 10 ns.  ucontext elsewhere makes two system calls of it, ten times slower.
 */
#include "kernels/cuda/sim/private.h"

#include <stdio.h>
#include <sys/mman.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#ifdef SIM_ASAN
static const size_t stack_bytes = 256 << 10; /* redzones take room */
#else
static const size_t stack_bytes = 64 << 10;
#endif
/* A guard page splits the mapping; Linux allows a process 65,530 of them. */
enum { PAGE = 4096, GUARDED = 4096 };

sim_stack sim_host_stack;
static sim_stack *pool;
static uint32_t n_stacks;

#if defined(__x86_64__)
extern "C" void hs_sim_switch(void **save, void *load);

/* The jump instead of a ret: the return predictor expects the other stack's caller and would always be wrong. */
__asm__(".text\n"
        ".p2align 4\n"
        ".globl hs_sim_switch\n"
        ".hidden hs_sim_switch\n"
        ".type hs_sim_switch, @function\n"
        "hs_sim_switch:\n"
        "  pushq %rbp\n"
        "  pushq %rbx\n"
        "  pushq %r12\n"
        "  pushq %r13\n"
        "  pushq %r14\n"
        "  pushq %r15\n"
        "  subq $8, %rsp\n"
        "  stmxcsr (%rsp)\n"
        "  fnstcw 4(%rsp)\n"
        "  movq %rsp, (%rdi)\n"
        "  movl (%rsp), %eax\n"
        "  movzwl 4(%rsp), %ecx\n"
        "  movq %rsi, %rsp\n"
        "  cmpl %eax, (%rsp)\n" /* loading them is slow, and they are nearly always the same */
        "  jne 1f\n"
        "  cmpw %cx, 4(%rsp)\n"
        "  jne 1f\n"
        "2:\n"
        "  addq $8, %rsp\n"
        "  popq %r15\n"
        "  popq %r14\n"
        "  popq %r13\n"
        "  popq %r12\n"
        "  popq %rbx\n"
        "  popq %rbp\n"
        "  popq %rcx\n"
        "  jmp *%rcx\n"
        "1:\n"
        "  ldmxcsr (%rsp)\n"
        "  fldcw 4(%rsp)\n"
        "  jmp 2b\n"
        ".size hs_sim_switch, .-hs_sim_switch\n");

static void prepare(sim_stack *s, void (*entry)(void))
{
    uint32_t mxcsr;
    uint16_t control;
    __asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(mxcsr), "=m"(control));
    /* As if hs_sim_switch had been called from a function whose return address is 0: debuggers stop there. */
    uint64_t *top = reinterpret_cast<uint64_t *>(s->base + s->bytes - 56);
    uint64_t *sp = top - 8;
    memset(sp, 0, 9 * sizeof *sp);
    sp[0] = mxcsr | (uint64_t)control << 32;
    sp[7] = reinterpret_cast<uint64_t>(entry);
    s->sp = sp;
}

static void jump(sim_stack *from, sim_stack *to)
{
    hs_sim_switch(&from->sp, to->sp);
}

#else
static void prepare(sim_stack *s, void (*entry)(void))
{
    ucontext_t *c = static_cast<ucontext_t *>(s->sp ? s->sp : sim_alloc(sizeof *c));
    getcontext(c);
    c->uc_stack.ss_sp = s->base;
    c->uc_stack.ss_size = s->bytes;
    c->uc_link = nullptr;
    makecontext(c, entry, 0);
    s->sp = c;
}

static void jump(sim_stack *from, sim_stack *to)
{
    if (!from->sp)
        from->sp = sim_alloc(sizeof(ucontext_t));
    swapcontext(static_cast<ucontext_t *>(from->sp), static_cast<ucontext_t *>(to->sp));
}
#endif

sim_stack *sim_stack_take(void (*entry)(void))
{
    sim_stack *s = pool;
    if (s) {
        pool = s->next;
    } else {
        size_t guard = n_stacks++ < GUARDED ? PAGE : 0;
        char *p = static_cast<char *>(mmap(nullptr, stack_bytes + guard, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (p == MAP_FAILED || (guard && mprotect(p, guard, PROT_NONE) != 0)) {
            fprintf(stderr, "hlwq-stream: the GPU simulator has no memory for the stack of one more thread\n");
            abort();
        }
        s = static_cast<sim_stack *>(sim_alloc(sizeof *s));
        s->base = p + guard;
        /* Tops of equal page offset would share a few cache sets among all threads of a block. */
        s->bytes = stack_bytes - n_stacks * 448 % PAGE / 16 * 16;
    }
    if (s->dirty)
        ASAN_UNPOISON_MEMORY_REGION(s->base, s->bytes);
    s->dirty = false;
    prepare(s, entry);
    return s;
}

void sim_stack_give(sim_stack *s)
{
    s->next = pool;
    pool = s;
}

#ifdef SIM_ASAN
static sim_stack *came_from;
static sim_stack *here;

void sim_stack_switch(sim_stack *from, sim_stack *to, bool from_ends)
{
    came_from = from;
    here = to;
    if (from_ends)
        from->dirty = true;
    __sanitizer_start_switch_fiber(from_ends ? nullptr : &from->fake, to->base, to->bytes);
    jump(from, to);
    sim_stack_entered();
}

/* The host's stack is whichever thread's last came from there. */
void sim_stack_entered(void)
{
    const void *base;
    size_t bytes;
    __sanitizer_finish_switch_fiber(here->fake, &base, &bytes);
    here->fake = nullptr;
    if (came_from == &sim_host_stack) {
        sim_host_stack.base = static_cast<char *>(const_cast<void *>(base));
        sim_host_stack.bytes = bytes;
    }
}
#else
void sim_stack_switch(sim_stack *from, sim_stack *to, bool)
{
    jump(from, to);
}
void sim_stack_entered(void) {}
#endif
