/* The hosts of a job that "tandem run" watches: "a:4,b:4", and which of them answer. */
#ifndef TD_CLI_HOSTS_H
#define TD_CLI_HOSTS_H

#include "tandem/status.h"

#include <stdbool.h>
#include <stddef.h>

enum { TD_HOSTS_MOST = 1024, TD_HOST_TEXT = 256 };

typedef struct td_host {
    char name[TD_HOST_TEXT];
    int slots;
    bool answers;
} td_host;

/* "NAME" or "NAME:SLOTS", with commas; all are taken to answer. td_free(*out). TD_ERR_ARG. */
TD_MUST_CHECK td_status td_hosts_parse(const char *text, td_host **out, int *count);
/* Whether the name is this machine's. */
bool td_host_is_here(const char *name);
/* Asks all but this machine at once, with the shell's "COMMAND NAME REST"; who has not ended well
 * after `seconds` does not answer. */
TD_MUST_CHECK td_status td_hosts_probe(td_host *hosts, int count, const char *command,
                                       const char *rest, int seconds);
/* Those that answer, or do not, as "a:4,b:4" (slots) or "a, b"; returns how many. */
int td_hosts_text(const td_host *hosts, int count, bool answering, bool slots, char *text,
                  size_t room);
/* Slots of those that answer. */
int td_hosts_slots(const td_host *hosts, int count);

#endif
