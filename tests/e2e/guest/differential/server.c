// Cases of listen() and accept().
#include "frame.h"

const struct test SERVER_CASES[] = {{0}};
