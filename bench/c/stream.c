// Sends messages from one process to another; with a pause between them it is
// the time of a wake-up that is measured.
//   stream FAMILY WAY SIZE CORE CORE QUEUE
#include "queue.h"

static char** arguments;

static struct result sender(struct command command, int64_t* laps) {
  (void)laps;
  const size_t size = (size_t)atol(arguments[3]);
  struct queue queue = open_queue(arguments[1], arguments[6],
                                  way_of(arguments[2]), size, EPOLLOUT);
  struct maker maker = {.size = size, .stamped = command.pause > 0};
  const struct timespec pause = {.tv_sec = command.pause / 1000000,
                                 .tv_nsec = command.pause % 1000000 * 1000};
  for (long i = 0; i <= command.warm + command.count; ++i) {
    if (command.pause > 0) nanosleep(&pause, NULL);
    send_message(&queue, &maker);
  }
  close_queue(&queue);
  return (struct result){0};
}

static struct result receiver(struct command command, int64_t* laps) {
  const size_t size = (size_t)atol(arguments[3]);
  struct queue queue = open_queue(arguments[1], arguments[6],
                                  way_of(arguments[2]), size, EPOLLIN);
  struct checker checker = new_checker(size, command, command.pause > 0 ? laps : NULL);
  for (long i = 0; i <= command.warm + command.count; ++i)
    receive_message(&queue, &checker);
  return evaluate(&checker);
}

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  arguments = argv;
  const int cores[] = {atoi(argv[4]), atoi(argv[5])};
  struct command command;
  pin(cores[0]);
  while (next_command(&command)) run_round(cores, sender, receiver, command);
  return 0;
}
