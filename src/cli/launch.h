/* A program that is started and watched: mpiexec, for "tandem run". Signals wait in a queue and are
 * taken in order, so no handler runs. */
#ifndef TD_CLI_LAUNCH_H
#define TD_CLI_LAUNCH_H

#include "tandem/status.h"

#include <stdbool.h>
#include <stddef.h>

/* From now on INT, TERM, HUP, USR1, USR2 and CHLD are taken by the functions below, and processes
 * that lose their parent below this one become its children. Where HUP is ignored (nohup), it stays
 * so; to be called before MPI's libraries are loaded. */
void td_launch_init(void);

enum { TD_LAUNCH_WORDS = 512 };
typedef struct td_line { /* a command line; the words are borrowed */
    const char *word[TD_LAUNCH_WORDS + 1];
    int count;
} td_line;
/* TD_ERR_ARG when there are too many. */
TD_MUST_CHECK td_status td_line_add(td_line *line, const char *word);
/* To standard output, quoted for the shell. */
void td_line_print(const td_line *line);

typedef struct td_launch_look {
    double every; /* seconds; 0: never */
    bool (*stuck)(void *user);
    void *user;
} td_launch_look;
enum { TD_LAUNCH_STUCK = -1, TD_LAUNCH_GRACE_S = 5 };

/* Runs it, in a process group of its own and with no input, and waits for its end; *out_code is its
 * exit status, or 128 + the signal that ended it, or TD_LAUNCH_STUCK: `stuck`, asked now and then,
 * has said so, and it was ended by TERM, and by KILL TD_LAUNCH_GRACE_S seconds later, with all that
 * it has left on this machine. Where it ends by itself, processes of this program that it has left
 * are ended, too: at once where they are stopped, else after three seconds. The first
 * INT, TERM, HUP or USR2 becomes *interrupted and is passed on as USR2, which mpiexec hands to the
 * ranks and waits for; the second ends it by TERM, the third by KILL. USR1 is passed on. TD_ERR_ARG
 * where it cannot be started. */
TD_MUST_CHECK td_status td_launch_run(const td_line *line, const td_launch_look *look,
                                      int *interrupted, int *out_code);
/* Sleeps; ends early, and says so, when a signal asks to stop. */
bool td_launch_sleep(double seconds, int *interrupted);

#endif
