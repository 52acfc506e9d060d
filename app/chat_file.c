/*
 * app/chat_file.c - a conversation in the file of a session: its messages are the note, in the JSON of /save.
 */
#include "app/chat.h"

#include <string.h>

hlwq_status chat_keep(chat *c, const char *path, hlwq_error *err)
{
    hs_text note = {0};
    chat_talk_write(&note, &c->talk);
    hlwq_status st = note.failed ? hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the messages")
                                 : hlwq_session_set_sampling(c->session, &c->sampling, err);
    if (st == HLWQ_OK)
        st = hlwq_session_save(c->session, path, note.data, err);
    hs_text_close(&note);
    return st;
}

hlwq_status chat_resume(chat *c, const char *path, hlwq_error *err)
{
    char *note;
    HS_TRY(hlwq_session_load(c->session, path, &note, err));
    hlwq_status st = HLWQ_OK;
    if (note)
        st = chat_talk_read(&c->talk, note, strlen(note), path, err);
    else
        st = hs_fail(err, HLWQ_ERR_ARG, "%s holds no conversation; run --session goes on with it", path);
    hlwq_free(note);
    if (st != HLWQ_OK) {
        chat_forget(c);
        return st;
    }
    hlwq_session_get_sampling(c->session, &c->sampling);
    HS_TRY(app_sampling(c->args, &c->sampling, err));
    return hlwq_session_set_sampling(c->session, &c->sampling, err);
}
