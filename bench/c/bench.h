// What the C programs share: messages that can be verified, the clock, cores,
// and the commands of the benchmark.
//
// A message is its number, 4 bytes of nothing, the time at which it was sent,
// a pattern, and a hash of the number. bench/message.mjs says the same.
#ifndef BENCH_H
#define BENCH_H

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { STAMP = 8, PATTERN = 16, HASH_BYTES = 4, SAMPLE = 64 };

/** What started this process, if that is an end too. */
static pid_t other_end;

/** The other end may be blocked for ever. */
static void give_up(void) {
  if (other_end > 0) kill(other_end, SIGTERM);
  exit(1);
}

static void fail(const char* what) {
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  give_up();
}

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void pin(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) fail("sched_setaffinity");
}

/** What one round asks for. */
struct command {
  long count;  // messages that are timed
  long warm;   // messages before those
  int full;    // compare all bytes of all messages
  long pause;  // microseconds between two messages
};

static uint32_t hash(uint32_t number) { return number * 0x9E3779B1u; }

static void fill(char* bytes, size_t size) {
  uint32_t state = 1;
  memset(bytes, 0, PATTERN);
  for (size_t i = PATTERN; i < size; ++i) {
    state = state * 1664525u + 1013904223u;
    bytes[i] = (char)(state >> 24);
  }
}

/** Numbers the messages that are sent. */
struct maker {
  size_t size;
  uint32_t number;
  int stamped;
};

static void make(struct maker* maker, char* bytes) {
  const uint32_t end = hash(maker->number);
  memcpy(bytes, &maker->number, sizeof end);
  memcpy(bytes + maker->size - HASH_BYTES, &end, sizeof end);
  if (maker->stamped) {
    const int64_t time = now();
    memcpy(bytes + STAMP, &time, sizeof time);
  }
  ++maker->number;
}

/** Verifies the messages that are received, and takes the time. */
struct checker {
  size_t size;
  struct command command;
  uint32_t number;
  char* expected;
  int64_t* laps;  // the time of each message, or the latency of stamped ones
  int stamped;
  int64_t start, end;
};

static struct checker new_checker(size_t size, struct command command,
                                  int64_t* laps) {
  struct checker checker = {.size = size, .command = command};
  checker.expected = malloc(size);
  fill(checker.expected, size);
  checker.stamped = command.pause > 0;
  checker.laps = laps;
  return checker;
}

static void check(struct checker* checker, const char* bytes, ssize_t length) {
  uint32_t number;
  uint32_t end;
  if (length < 0) fail("receive");
  const uint32_t expected = checker->number++;
  if ((size_t)length == checker->size) {
    memcpy(&number, bytes, sizeof number);
    memcpy(&end, bytes + checker->size - HASH_BYTES, sizeof end);
  }
  if ((size_t)length != checker->size || number != expected ||
      end != hash(expected) ||
      ((checker->command.full || expected % SAMPLE == 0) &&
       memcmp(bytes + PATTERN, checker->expected + PATTERN,
              checker->size - PATTERN - HASH_BYTES) != 0)) {
    fprintf(stderr, "message %u is lost or corrupt\n", expected);
    give_up();
  }
  const long timed = (long)expected - checker->command.warm;
  if (checker->laps != NULL && timed >= 0) {
    int64_t sent = 0;
    if (checker->stamped) memcpy(&sent, bytes + STAMP, sizeof sent);
    checker->laps[timed] = now() - sent;
  }
  if (timed == 0) checker->start = now();
  if (timed == checker->command.count) checker->end = now();
}

/** What a round found. */
struct result {
  double nanoseconds;  // a message
  int64_t cpu;         // microseconds of this process
  long messages;
  int64_t* laps;
};

static struct result evaluate(const struct checker* checker) {
  const long count = checker->command.count;
  int64_t* laps = checker->laps;
  if (laps != NULL && !checker->stamped)
    for (long i = 0; i < count; ++i) laps[i] = laps[i + 1] - laps[i];
  return (struct result){
      .nanoseconds = (double)(checker->end - checker->start) / (double)count,
      .messages = checker->number,
      .laps = laps};
}

static int64_t cpu_time(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * INT64_C(1000000) +
         usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

static long memory(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

static void print_result(const struct result* result, int64_t cpu,
                         const struct command* command) {
  printf("{\"nanoseconds\":%.2f,\"messages\":%ld,\"cpu\":%lld,\"rss\":%ld",
         result->nanoseconds, result->messages, (long long)cpu, memory());
  for (long i = 0; result->laps != NULL && i < command->count; ++i)
    printf("%s%lld", i == 0 ? ",\"laps\":[" : ",", (long long)result->laps[i]);
  printf("%s}\n", result->laps == NULL ? "" : "]");
  fflush(stdout);
}

/** Reads "COUNT WARM FULL PAUSE" until the benchmark has had enough. */
static int next_command(struct command* command) {
  return scanf("%ld %ld %d %ld", &command->count, &command->warm,
               &command->full, &command->pause) == 4;
}

/** Memory that a child shares. */
static void* share(size_t size) {
  void* memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  return memory;
}

typedef struct result end_function(struct command command, int64_t* laps);

/**
 * Runs a round in two processes: `near` in this one, `far` in a child. One of
 * them tells the time.
 */
static inline void run_round(const int* cores, end_function* near,
                             end_function* far, struct command command) {
  const size_t size = ((size_t)command.count + 1) * sizeof(int64_t);
  struct result* theirs = share(sizeof *theirs);
  int64_t* laps = share(size);
  const pid_t child = fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    other_end = getppid();
    pin(cores[1]);
    const int64_t before = cpu_time();
    *theirs = far(command, laps);
    theirs->cpu = cpu_time() - before;
    _exit(0);
  }
  const int64_t before = cpu_time();
  const struct result own = near(command, laps);
  const int64_t cpu = cpu_time() - before;
  int status;
  if (waitpid(child, &status, 0) != child) fail("waitpid");
  if (status != 0) exit(1);
  print_result(own.nanoseconds > 0 ? &own : theirs, cpu + theirs->cpu,
               &command);
  munmap(theirs, sizeof *theirs);
  munmap(laps, size);
}

#endif
