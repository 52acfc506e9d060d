/*
 * hello.c - continues a prompt with libhlwq_stream.
 *
 *   cc hello.c $(pkg-config --cflags --libs hlwq-stream) -o hello
 *   ./hello models/demo-q5.hlwq "The old man looked at the sea and"
 */
#include <hlwq_stream.h>

#include <stdio.h>

int main(int argc, char **argv)
{
    hlwq_error err = {.message = ""};
    hlwq_engine *engine = NULL;
    hlwq_session *session = NULL;

    hlwq_engine_options options = hlwq_engine_options_default();
    options.model = argc > 1 ? argv[1] : "models/demo-q5.hlwq";
    const char *prompt = argc > 2 ? argv[2] : "The old man looked at the sea and";

    hlwq_status st = hlwq_engine_open(&options, &engine, &err);
    if (st == HLWQ_OK) {
        hlwq_session_options how = hlwq_session_options_default(engine);
        how.context = 256;
        how.sampling.seed = 1;
        st = hlwq_session_open(engine, &how, &session, &err);
    }
    if (st == HLWQ_OK)
        st = hlwq_session_prompt(session, prompt, &err);

    int32_t id = 0;
    for (int i = 0; i < 32 && st == HLWQ_OK && id >= 0; i++) {
        st = hlwq_session_next(session, &id, &err); /* id is -1 when the model has ended its text */
        if (st == HLWQ_OK) {
            fputs(hlwq_session_text(session, id), stdout); /* whole characters only; may be empty */
            fflush(stdout);
        }
    }
    if (st == HLWQ_OK && id >= 0)
        fputs(hlwq_session_text(session, -1), stdout); /* what was held back */
    puts("");

    if (st != HLWQ_OK)
        fprintf(stderr, "hello: %s\n", err.message);
    hlwq_session_close(session);
    hlwq_engine_close(engine);
    return st == HLWQ_OK ? 0 : 1;
}
