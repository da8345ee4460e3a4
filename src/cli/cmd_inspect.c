#include "base/error.h"
#include "cli/cli.h"
td_status td_cmd_inspect(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    return TD_OK;
}
