// Sends a message to another process, and waits for its answer.
//   ping-pong FAMILY WAY SIZE CORE CORE THERE BACK
#include "queue.h"

static char** arguments;

static struct result play(struct command command, int pings, int64_t* laps) {
  const size_t size = (size_t)atol(arguments[3]);
  const enum way way = way_of(arguments[2]);
  struct queue out =
      open_queue(arguments[1], arguments[pings ? 6 : 7], way, size, EPOLLOUT);
  struct queue in =
      open_queue(arguments[1], arguments[pings ? 7 : 6], way, size, EPOLLIN);
  struct maker maker = {.size = size};
  struct checker checker = new_checker(size, command, pings ? laps : NULL);
  for (long i = 0; i <= command.warm + command.count; ++i) {
    if (pings) send_message(&out, &maker);
    receive_message(&in, &checker);
    if (!pings) send_message(&out, &maker);
  }
  const struct result result = evaluate(&checker);
  close_queue(&out);
  close_queue(&in);
  free(checker.expected);
  return result;
}

static struct result ping(struct command command, int64_t* laps) {
  return play(command, 1, laps);
}

static struct result pong(struct command command, int64_t* laps) {
  return play(command, 0, laps);
}

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  arguments = argv;
  const int cores[] = {atoi(argv[4]), atoi(argv[5])};
  struct command command;
  pin(cores[0]);
  while (next_command(&command)) run_round(cores, ping, pong, command);
  return 0;
}
