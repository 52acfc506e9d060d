/*
 * app/serve_request.h - what a client asks for: the JSON of a request as checked numbers.  No I/O, no model.
 *
 * Everything here came from the network.  What is not understood or not offered is refused with one sentence that
 * names the field; members that change nothing of an answer ("user", "metadata", ...) are ignored.
 */
#ifndef HS_APP_SERVE_REQUEST_H
#define HS_APP_SERVE_REQUEST_H

#include "base/error.h"
#include "base/json.h"

enum {
    SERVE_STOPS = 16,
    SERVE_STOP_BYTES = 256,
    SERVE_PROMPTS = 64, /* of one request for completions */
    SERVE_TOP = 20,     /* likeliest tokens shown beside the chosen one */
    SERVE_TOOLS = 128
};

/* Why a request is refused: an HTTP status and what the error object says. */
typedef struct serve_fault {
    int status;
    const char *code; /* NULL = none */
    char param[48];   /* the field at fault; "" = none */
    char message[1024];
} serve_fault;

/* Fills *fault and returns false. `param` NULL = none. */
bool serve_refuse(serve_fault *fault, int status, const char *param, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* "invalid_request_error" and so on. */
const char *serve_fault_type(int status);

/* From a failure of the library: 400 where the caller's values are at fault, 500 otherwise. */
bool serve_refuse_error(serve_fault *fault, const hlwq_error *err);

typedef enum serve_kind { SERVE_CHAT, SERVE_COMPLETION } serve_kind;
typedef enum serve_choice { SERVE_TOOLS_NONE, SERVE_TOOLS_AUTO, SERVE_TOOLS_REQUIRED, SERVE_TOOLS_NAMED } serve_choice;
typedef enum serve_format {
    SERVE_TEXT,
    SERVE_JSON_OBJECT,
    SERVE_JSON_SCHEMA,
    SERVE_CALLS /* of tools, never of "response_format" */
} serve_format;

/* Texts and nodes are lent by the parsed body. */
typedef struct serve_params {
    serve_kind kind;
    hlwq_sampling sampling;
    bool seeded;        /* a seed was given */
    int64_t max_tokens; /* below 0 = any */
    const char *stop[SERVE_STOPS];
    uint32_t stops;
    bool stream, usage; /* usage: as the last chunk of a stream */
    bool logprobs;
    uint32_t top;
    bool echo;                /* completions: the prompt before its continuation */
    const hs_json *prompt;    /* completions */
    const hs_json *messages;  /* chat */
    const hs_json *tools;     /* chat; NULL = none */
    const hs_json *variables; /* chat: chat_template_kwargs; NULL = none */
    int thinking;             /* chat: 1 on, 0 off, -1 as the model does */
    bool continues;           /* chat: the answer continues the last message */
    serve_choice choice;
    const char *tool; /* SERVE_TOOLS_NAMED */
    bool one_call;    /* parallel_tool_calls: false */
    serve_format format;
    const hs_json *schema;
} serve_params;

/* The schema that the arguments of tool `i` must be of; NULL = it is not strict.  With a name, of that tool. */
const hs_json *serve_strict_schema(const hs_json *tools, size_t i);
const hs_json *serve_strict_schema_of(const hs_json *tools, const char *name);

/* Whether the answer must begin with a call. */
bool serve_must_call(const serve_params *p);

/* What calls may be made, as the library asks for it (HLWQ_CONSTRAINT_TOOLS), and what else the answer may be. */
void serve_write_calls(const serve_params *p, hs_text *out);

/* `defaults` are the server's own. */
bool serve_parse(const hs_json *body, serve_kind kind, const hlwq_sampling *defaults, serve_params *params,
                 serve_fault *fault);

#endif
